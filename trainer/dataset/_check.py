"""Whether a data set on disk is what its manifest says."""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from trainer.dataset._headers import is_image
from trainer.dataset._ignored import Ignored
from trainer.dataset._listing import ClassFolders, list_class_folders, list_flat_folder
from trainer.dataset._manifest import (
    QUARANTINE,
    SPLITS,
    Dataset,
    Skipped,
    Split,
    image_records,
    open_dataset,
    write_manifest,
)
from trainer.dataset._names import has_control, shown, utf8
from trainer.dataset._places import places_in
from trainer.errors import DataError

BATCH = 1000  # images that a thread looks at in one go
CARRIED = (
    "name",
    "options",
    "archives",
    "published",
    "ignored",
    "images",
)  # entries of dataset.json that stay
OF_OLD_CLASS = " that is not in the manifest"


class Finding(NamedTuple):
    """What is wrong or unusual with one file."""

    path: str  # below the data set's folder
    kind: Literal[
        "bad", "misplaced", "warned", "handled", "unlisted"
    ]  # bad: it would stop or spoil a training
    reason: str


def check_files(
    dataset: Dataset,
    *,
    progress: Callable[[int], None] = lambda _: None,
    ignored: Callable[[Ignored], None] = lambda _: None,
) -> Iterator[Finding]:
    """Look for files that are missing or changed in length, and for images that are not in the manifest.

    Args:
        dataset: an opened data set.
        progress: called with the number of images checked since the last call.
        ignored: called with each file beside them whose name says that it is no image.
    """
    yield from in_threads(dataset, _check_batch, progress)
    yield from _unlisted(dataset, ignored)


def in_threads(
    dataset: Dataset,
    check: Callable[[Split, range], Iterable[Finding]],
    progress: Callable[[int], None],
    *,
    batch: int = BATCH,
) -> Iterator[Finding]:
    """Check images in a thread a core; findings come in the manifest's order.

    Args:
        dataset: an opened data set.
        check: findings about the images of a split at some indices.
        progress: called with the number of images checked since the last call.
        batch: number of images that a thread checks in one go.
    """
    threads = len(os.sched_getaffinity(0))
    pending: deque[tuple[int, Future[list[Finding]]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for split in (dataset.train, dataset.val):
            for start in range(0, len(split), batch):
                indices = range(start, min(start + batch, len(split)))
                pending.append((len(indices), pool.submit(_findings, check, split, indices)))
                while len(pending) > 4 * threads:
                    yield from _first(pending, progress)
        while pending:
            yield from _first(pending, progress)


def _findings(
    check: Callable[[Split, range], Iterable[Finding]], split: Split, indices: range
) -> list[Finding]:
    return list(check(split, indices))


def _first(
    pending: deque[tuple[int, Future[list[Finding]]]], progress: Callable[[int], None]
) -> Iterator[Finding]:
    count, checked = pending.popleft()
    yield from checked.result()
    progress(count)


def _check_batch(split: Split, indices: range) -> Iterator[Finding]:
    some = slice(indices.start, indices.stop)
    for index, size, path in zip(indices, split.rows["bytes"][some].tolist(), split.files(some), strict=True):
        try:
            found = os.stat(path)  # one call a file and no Path, for there are a million
        except OSError as error:
            yield Finding(split.name(index), "bad", f"cannot be read: {error.strerror}")
            continue
        if found.st_size != size or not stat.S_ISREG(found.st_mode):
            yield Finding(
                split.name(index), "bad", f"has {found.st_size:,} bytes; it was prepared with {size:,}"
            )


def _unlisted(dataset: Dataset, ignored: Callable[[Ignored], None]) -> Iterator[Finding]:
    places, root = places_in(dataset.metadata), dataset.train.root
    known = {path for split in (dataset.train, dataset.val) for path in split.files()}
    # With control characters as escapes.
    known |= {os.fsencode(f"{root}/{places.file_of(entry.path)}") for entry in dataset.skipped}
    classes = set(dataset.classes)
    for below, found in _folders(dataset):
        for one in found.ignored:
            ignored(Ignored(below + one.path, one.reason))
        for name, files in found.files.items():
            new = f" of {shown(name)}, a class that the manifest does not have"
            if not name or utf8(name) in classes:
                new = OF_OLD_CLASS
            for file in files:
                path = f"{below}{name}/{file}" if name else f"{below}{file}"
                listed = shown(path) if has_control(path) else path
                if os.fsencode(f"{root}/{listed}") not in known and _is_image(root / path):
                    yield Finding(path, "unlisted", f"is an image{new}; it is not used")


def _folders(dataset: Dataset) -> Iterator[tuple[str, ClassFolders]]:
    """Folders of the data set as they are now, and what stands before their paths; of a flat one the class is ""."""
    rows = [path for split in (dataset.train, dataset.val) for path in split.rows["path"].tolist()]
    in_splits = all(path.startswith((b"train/", b"val/")) and path.count(b"/") > 1 for path in rows)
    for split, images in zip(SPLITS, (dataset.train, dataset.val), strict=True):
        pattern = images.pattern or (f"{split}/{{class}}/{{name}}" if in_splits else "{class}/{name}")
        below, by_class, _ = pattern.partition("{class}")
        below = below.removesuffix("{name}")
        if not in_splits and split == "val":
            return  # the same folders
        with suppress(
            DataError
        ):  # of a folder that cannot be listed; its files have been reported as missing
            folder = images.root / below
            yield below, list_class_folders(folder, flat=not below) if by_class else list_flat_folder(folder)


def _is_image(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return is_image(file.read(16))
    except OSError:
        return False


def quarantine(dataset: Dataset, findings: Iterable[Finding]) -> Dataset:
    """Write the manifest without the bad files, then move them to `quarantine/` below the data set.

    Args:
        dataset: an opened data set.
        findings: findings about its files; those of kind "bad" are moved.

    Returns: the data set as it is then.
    Raises: DataError if a class would be left without images, the folder cannot be written, or the images are in
        another folder than the manifest.
    """
    bad = {finding.path: finding.reason for finding in findings if finding.kind == "bad"}
    places = places_in(dataset.metadata)
    if places.root:
        raise DataError(
            f"the images of {dataset.root} lie in {places.root}, where nothing is moved; restore the bad files, "
            f"or remove them there and repeat: trainer prepare {places.root} --manifest {dataset.root}"
        )
    try:
        write_manifest(
            dataset.root,
            [image for image in image_records(dataset) if image.path not in bad],
            [*dataset.skipped, *(Skipped(path, reason) for path, reason in bad.items())],
            metadata={key: dataset.metadata[key] for key in CARRIED if key in dataset.metadata},
            class_names=dataset.metadata.get("class_names", {}),
            class_ids=dataset.classes,
        )
        for path in bad:
            if (file := dataset.root / places.file_of(path)).exists():
                target = dataset.root / QUARANTINE / path
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(file, target)
    except OSError as error:
        raise DataError(
            f"{dataset.root} cannot be changed ({error.strerror or error}); bad files are moved, and the manifest is "
            "written anew, where the folder can be written"
        ) from None
    return open_dataset(dataset.root)
