"""The manifest: what a data set consists of, so that nothing needs to look at its folders again.

`dataset.json` tells what it is, `index-DIGEST.npy` lists every image: label, size, length and CRC-32.
The index is one NumPy array that is mapped into memory: processes share it, and 1.3 million images
open at once. Hidden files, stray folders and `._x.JPEG` cannot shift a label: they are not in it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.errors import DataError
from trainer.files import atomic_path, write_json

DATASET = "dataset.json"
UNFINISHED = ".preparing"  # the folder of a preparation that has not ended
FORMAT = 1
SPLITS: tuple[Part, Part] = ("train", "val")

Part = Literal["train", "val"]
Rows = npt.NDArray[np.void]  # fields: label, width, height (pixels), bytes, crc32, path (below the root)


class ImageRecord(NamedTuple):
    """One image of a data set."""

    part: Part
    group: str  # its class
    path: str  # below the data set's folder
    bytes: int
    width: int  # pixels
    height: int
    crc32: int


class Skipped(NamedTuple):
    """A file that is no image of the data set, and why."""

    path: str
    reason: str


@dataclass(frozen=True)
class Split:
    """The images of one part of a data set, ordered by class and path."""

    root: Path
    rows: Rows

    def __len__(self) -> int:
        """Number of images."""
        return len(self.rows)

    def name(self, index: int) -> str:
        """Path of an image below the data set's folder."""
        return os.fsdecode(self.rows["path"][index])

    def path(self, index: int) -> Path:
        """Where an image is."""
        return self.root / self.name(index)

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
    root: Path
    classes: tuple[str, ...]  # folder names (for ImageNet: WordNet ids), sorted
    class_names: tuple[str, ...]  # the same classes in words, as far as known
    train: Split
    val: Split
    digest: str  # SHA-256 of classes and index
    about: Mapping[str, Any] = field(default_factory=dict)  # how it was made; see `write_manifest`

    @property
    def left_out(self) -> list[Skipped]:
        """Files that were found unusable when the manifest was written."""
        return [Skipped(*entry) for entry in self.about.get("left_out", [])]


def open_dataset(root: Path) -> Dataset:
    """Open a prepared data set.

    Raises: DataError if there is none, its preparation has not ended, or its manifest is damaged.
    """
    about = read_about(root)
    if about is None:
        raise DataError(_missing(root))
    try:
        classes, counts = tuple(about["classes"]), about["counts"]
        index = root / f"index-{about['digest'][:16]}.npy"
        rows: Rows = np.load(index, mmap_mode="r", allow_pickle=False)
        digest = _digest(classes, rows)
        sound = digest == about["digest"] and len(rows) == counts["train"] + counts["val"]
    except (OSError, EOFError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"the manifest of {root} cannot be read ({error}); remove its {DATASET} and prepare it again"
        ) from None
    if not sound:
        raise DataError(f"{index} is damaged; remove {root / DATASET} and prepare the data set again")
    names: Mapping[str, str] = about.get("class_names", {})
    return Dataset(
        name=about["name"],
        root=root,
        classes=classes,
        class_names=tuple(names.get(one, one) for one in classes),
        train=Split(root, rows[: counts["train"]]),
        val=Split(root, rows[counts["train"] :]),
        digest=digest,
        about=about,
    )


def read_about(root: Path) -> dict[str, Any] | None:
    """What `dataset.json` tells; None where there is none. Raises: DataError if it cannot be read."""
    try:
        about = json.loads((root / DATASET).read_bytes())
        if about["format"] > FORMAT:
            raise DataError(f"{root / DATASET} was written by a newer trainer; update this one")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{root / DATASET} is not a manifest ({error!r}); remove it and prepare the data set again"
        ) from None
    return dict(about)


def write_manifest(
    root: Path,
    images: Iterable[ImageRecord],
    left_out: Iterable[Skipped],
    *,
    about: Mapping[str, Any],
    class_names: Mapping[str, str],
) -> dict[str, Any]:
    """Write the manifest of the data set in `root`: all of it or nothing, whenever the power goes.

    Args:
        root: the data set's folder.
        images: all its images, in any order.
        left_out: files that are none of them, and why.
        about: what else `dataset.json` shall tell: at least `name`.
        class_names: words for the classes.

    Returns: the content of `dataset.json`.
    Raises: DataError if there are no images, or the two parts have different classes.
    """
    # Two sorts of the same key: a class list of folder names, and rows by part, class and path.
    ordered = sorted(images, key=lambda image: (SPLITS.index(image.part), image.group, image.path))
    groups = {part: {image.group for image in ordered if image.part == part} for part in SPLITS}
    _check_classes(root, groups)
    classes = tuple(sorted(groups["train"]))
    label = {group: position for position, group in enumerate(classes)}
    paths = [os.fsencode(image.path) for image in ordered]
    rows: Rows = np.array(
        [
            (label[image.group], image.width, image.height, image.bytes, image.crc32, path)
            for image, path in zip(ordered, paths, strict=True)
        ],
        dtype=[
            ("label", "<u2"), ("width", "<u2"), ("height", "<u2"), ("bytes", "<u4"), ("crc32", "<u4"),
            ("path", f"S{max(map(len, paths))}"),
        ],
    )  # fmt: skip
    digest = _digest(classes, rows)
    content = {
        "format": FORMAT,
        **about,
        "counts": {part: sum(image.part == part for image in ordered) for part in SPLITS},
        "digest": digest,
        "classes": classes,
        "class_names": {one: class_names[one] for one in classes if one in class_names},
        "left_out": sorted(left_out),
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
    if (root / "train").is_dir() or (root / "val").is_dir():
        return f"{root} has images but no manifest; write it with: trainer prepare folder {root}"
    return (
        f"{root} holds no data set; make one with `trainer prepare`, "
        "or give the folder that holds dataset.json with --data"
    )


def _check_classes(root: Path, groups: Mapping[Part, set[str]]) -> None:
    for part in SPLITS:
        if not groups[part]:
            raise DataError(
                f"there is not a single image for {part} in {root}; a data set has train/CLASS/*.JPEG and "
                "val/CLASS/*.JPEG, or CLASS/*.JPEG to be split with --val-fraction"
            )
    for one, other in (("train", "val"), ("val", "train")):
        if extra := groups[one] - groups[other]:  # type: ignore[index]
            shown = ", ".join(sorted(extra)[:3]) + (" …" if len(extra) > 3 else "")
            raise DataError(
                f"{root}: {one} has images of {len(extra)} class(es) that {other} lacks ({shown}); "
                "both must hold the same classes, or labels would mean different things"
            )
