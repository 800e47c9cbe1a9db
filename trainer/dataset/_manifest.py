"""The manifest: the list of a data set's images, so that nothing needs to look at its folders again.

`dataset.json` describes the data set, `index-DIGEST.npy` lists every image: label, size, length and CRC-32.
The index is one NumPy array that is mapped into memory: processes share it, and 1.3 million images
open at once. Hidden files, stray folders and `._x.JPEG` cannot shift a label: they are not in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.dataset._believed import check_entries, check_rows, row_type
from trainer.dataset._names import several, shown, words
from trainer.dataset._places import placed, places_in
from trainer.errors import DataError
from trainer.files import atomic_path, read_json, write_json

DATASET = "dataset.json"
INDEX = re.compile(r"index-[0-9a-f]{16}\.npy")
QUARANTINE = "quarantine"  # folder of bad files below the data set's
UNFINISHED = ".preparing"  # the folder of a preparation that has not ended
FORMAT = 1
SPLITS: tuple[SplitName, SplitName] = ("train", "val")

SplitName = Literal["train", "val"]
Rows = npt.NDArray[np.void]  # fields: label, width, height (pixels), bytes, crc32, path


class ImageRecord(NamedTuple):
    """One image of a data set."""

    split: SplitName
    class_id: str  # name of its class folder; for ImageNet its wnid
    path: str  # below the data set's folder; see `_places` for images that lie elsewhere
    bytes: int
    width: int  # pixels
    height: int
    crc32: int


class Skipped(NamedTuple):
    """A file that was not taken as an image of the data set, and the reason."""

    path: str
    reason: str


@dataclass(frozen=True)
class Split:
    """The training or the validation images of a data set, ordered by class and path."""

    root: Path  # the folder that its images are below
    rows: Rows
    pattern: str = ""  # where below it, if not at their paths

    def __len__(self) -> int:
        """Number of images."""
        return len(self.rows)

    def name(self, index: int) -> str:
        """Path of an image in the manifest, `SPLIT/CLASS/NAME` wherever it lies."""
        return os.fsdecode(self.rows["path"][index])

    def path(self, index: int) -> Path:
        """Path of an image's file."""
        return Path(os.fsdecode(self.files([index])[0]))

    def files(self, indices: Sequence[int] | npt.NDArray[np.int64] | slice = slice(None)) -> list[bytes]:
        """Paths of the files of some images, or of all."""
        root, place = os.fsencode(self.root) + b"/", placed(self.pattern)
        return [root + place(path) for path in self.rows["path"][indices].tolist()]

    def take(self, indices: npt.NDArray[np.int64]) -> Split:
        """The split of these images alone."""
        return replace(self, rows=self.rows[indices])

    @cached_property
    def labels(self) -> npt.NDArray[np.int64]:
        """Position of each image's class in the class list, (N,)."""
        return self.rows["label"].astype(np.int64)

    @cached_property
    def sizes(self) -> npt.NDArray[np.int64]:
        """Width and height of each image as stored, (N, 2) in pixels."""
        return np.stack([self.rows["width"], self.rows["height"]], axis=1).astype(np.int64)


@dataclass(frozen=True)
class Dataset:
    """An opened data set. Labels are positions in `classes`."""

    name: str
    root: Path  # folder of the manifest, and of the images unless its splits say otherwise
    classes: tuple[str, ...]  # class_ids: folder names, for ImageNet wnids; sorted
    class_names: tuple[str, ...]  # the same classes in words, where known
    train: Split
    val: Split
    digest: str  # SHA-256 of classes and index
    metadata: Mapping[str, Any] = field(default_factory=dict)  # content of dataset.json; see `write_manifest`

    @property
    def val_digest(self) -> str:
        """SHA-256 of the classes and of the content of the validation images, whatever is trained on.

        Accuracies of data sets that have it in common can be compared.
        """
        content = [self.val.rows[name].astype("<u4") for name in ("label", "bytes", "crc32")]
        return _digest(self.classes, np.stack(content))

    @property
    def skipped(self) -> list[Skipped]:
        """Files that were found unusable when the manifest was written."""
        return [Skipped(*entry) for entry in self.metadata.get("skipped", [])]


def open_dataset(root: Path, *, with_images: bool = True) -> Dataset:
    """Open a prepared data set.

    Args:
        root: the folder of its manifest.
        with_images: whether the folder of its images, which may be another, must be there.

    Raises: DataError if there is none, its preparation has not ended, or its manifest is damaged.
    """
    metadata = read_metadata(root)
    if metadata is None:
        raise DataError(_missing(root))
    classes, counts = tuple(metadata["classes"]), metadata["counts"]
    index = root / f"index-{metadata['digest'][:16]}.npy"
    try:
        rows = _load(index)
        digest = _digest(classes, rows)
        sound = digest == metadata["digest"] and len(rows) == sum(counts[split] for split in SPLITS)
        if sound:
            check_rows(rows, len(classes), counts["train"], by_class=bool(places_in(metadata).patterns))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"the manifest of {root} cannot be read ({error}); remove its {DATASET} and prepare it again"
        ) from None
    if not sound:
        raise DataError(f"{index} is damaged; remove {root / DATASET} and prepare the data set again")
    names: Mapping[str, str] = metadata.get("class_names", {})
    places = places_in(metadata)
    images = places.folder(root)
    if with_images and not images.is_dir():
        raise DataError(_gone(root, images))
    train, val = (places.patterns.get(split, "") for split in SPLITS)
    return Dataset(
        name=metadata["name"],
        root=root,
        classes=classes,
        class_names=tuple(names.get(one, words(one)) for one in classes),
        train=Split(images, rows[: counts["train"]], train),
        val=Split(images, rows[counts["train"] :], val),
        digest=digest,
        metadata=metadata,
    )


def _gone(root: Path, images: Path) -> str:
    return (
        f"the images of the data set in {root} were in {images}, and there is no such folder; mount their disk there, "
        f"or name their folder now: trainer prepare IMAGES --manifest {root}"
    )


def _load(index: Path) -> Rows:
    if not index.is_file():  # a pipe would be waited for
        raise FileNotFoundError(f"there is no {index.name}")
    try:
        rows: Rows = np.load(index, mmap_mode="r", allow_pickle=False)
        return rows
    except Exception as error:  # a damaged header raises whatever Python's own parser raises
        raise ValueError(f"{index.name}: {error}") from None


def image_records(dataset: Dataset) -> Iterator[ImageRecord]:
    """All images of a data set."""
    for split, images in zip(SPLITS, (dataset.train, dataset.val), strict=True):
        for label, width, height, size, crc32, path in images.rows.tolist():
            yield ImageRecord(split, dataset.classes[label], os.fsdecode(path), size, width, height, crc32)


def read_metadata(root: Path) -> dict[str, Any] | None:
    """Content of `dataset.json`; None where there is none. Raises: DataError if it cannot be read."""
    try:
        metadata = read_json(root / DATASET)
        newer = isinstance(metadata, dict) and type(at := metadata.get("format")) is int and at > FORMAT
        if not newer:
            check_entries(metadata)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DataError(f"{root / DATASET} cannot be read: {error.strerror}; mend that") from None
    except (ValueError, RecursionError) as error:
        raise DataError(
            f"{root / DATASET} is not a manifest ({error}); remove it and prepare the data set again"
        ) from None
    if newer:
        raise DataError(f"{root / DATASET} was written by a newer trainer; update this one")
    return dict(metadata)


def write_manifest(
    root: Path,
    images: Iterable[ImageRecord],
    skipped: Iterable[Skipped],
    *,
    metadata: Mapping[str, Any],
    class_names: Mapping[str, str],
    class_ids: Collection[str] = (),
    origin: str = "",
) -> dict[str, Any]:
    """Write the manifest of the data set in `root`: all of it or nothing, whenever the power goes.

    Args:
        root: the data set's folder.
        images: all its images, in any order.
        skipped: files that were not taken, with the reason.
        metadata: further entries of `dataset.json`, at least `name`.
        class_names: words by class_id.
        class_ids: classes that must have images.
        origin: where the images come from, for messages; by default `root`.

    Returns: the content of `dataset.json`.
    Raises: DataError if there are no images, or a class has none in one of the splits.
    """
    # Two sorts of the same key: a class list of folder names, and rows by split, class and path.
    ordered = sorted(images, key=lambda image: (SPLITS.index(image.split), image.class_id, image.path))
    skipped = sorted(skipped)
    found = {split: {image.class_id for image in ordered if image.split == split} for split in SPLITS}
    check_classes(origin or root, found, class_ids, skipped)
    classes = tuple(sorted(found["train"]))
    label = {class_id: position for position, class_id in enumerate(classes)}
    paths = [os.fsencode(image.path) for image in ordered]
    rows: Rows = np.array(
        [
            (label[image.class_id], image.width, image.height, image.bytes, image.crc32, path)
            for image, path in zip(ordered, paths, strict=True)
        ],
        dtype=row_type(max(map(len, paths))),
    )
    digest = _digest(classes, rows)
    content = {
        "format": FORMAT,
        **metadata,
        "counts": {split: sum(image.split == split for image in ordered) for split in SPLITS},
        "digest": digest,
        "classes": classes,
        "class_names": {one: class_names[one] for one in classes if one in class_names},
        "skipped": skipped,
    }
    index = root / f"index-{digest[:16]}.npy"
    with atomic_path(index) as partial, partial.open("wb") as file:
        np.save(file, rows, allow_pickle=False)
        file.flush()
        os.fsync(file.fileno())
    write_json(root / DATASET, content)
    for old in root.glob("index-*.npy"):
        if old != index:
            old.unlink()
    return content


def describe_options(options: Mapping[str, Any] | None) -> str:
    """The options of a preparation, for a message."""
    return ", ".join(f"{key} {value}" for key, value in (options or {}).items()) or "default options"


def _digest(classes: Sequence[str], rows: Rows) -> str:
    digest = hashlib.sha256(json.dumps([list(classes), rows.dtype.descr]).encode())
    digest.update(np.ascontiguousarray(rows).data)
    return digest.hexdigest()


def _missing(root: Path) -> str:
    if not root.is_dir():
        return (
            f"there is no data folder {root}; make a data set with `trainer prepare`, "
            f"for a first try `trainer prepare digits --out {root}`"
        )
    if (root / UNFINISHED).exists():
        return f"the data set in {root} is not complete; start the same `trainer prepare` again, it goes on"
    if any((root / name).is_dir() for name in (*SPLITS, "ILSVRC")):
        return f"{root} has images but no manifest; write it with: trainer prepare {root}"
    return (
        f"{root} holds no data set; make one with `trainer prepare`, "
        "or give the folder that holds dataset.json with --data"
    )


def check_classes(
    origin: Path | str,
    found: Mapping[SplitName, set[str]],
    class_ids: Collection[str] = (),
    skipped: Collection[Skipped] = (),
) -> None:
    """Check that every class has images in both splits.

    Args:
        origin: where the images come from.
        found: classes of the images of each split.
        class_ids: further classes that must have images.
        skipped: files that are not used, for the reason why a class has none.

    Raises: DataError naming classes that have none.
    """
    for split in SPLITS:
        if not found[split]:
            raise DataError(
                f"there is not a single image for {split} in {origin}{_reasons(skipped, [split])}; a data set has "
                "train/CLASS/*.JPEG and val/CLASS/*.JPEG, or CLASS/*.JPEG to be split with --val-fraction"
            )
    for one, other in (SPLITS, SPLITS[::-1]):
        if extra := (found[one] | set(class_ids)) - found[other]:
            has = f"{one} has images of {len(extra)} class(es) that {other} lacks"
            if not extra <= found[one]:
                has = f"{other} has no usable image of {len(extra)} class(es)"
            raise DataError(
                f"{origin}: {has} ({several(extra)}){_reasons(skipped, extra)}; "
                "both must hold the same classes, or labels would mean different things"
            )


def _reasons(skipped: Collection[Skipped], folders: Collection[str]) -> str:
    """Why files in these folders are not used, with an example."""
    some = [one for one in skipped if not set(folders).isdisjoint(one.path.split("/")[:-1])]
    if not some:
        return ""
    return f", where {len(some):,} file(s) cannot be used, e.g. {shown(some[0].path)}: it {some[0].reason}"
