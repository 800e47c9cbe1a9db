"""Whether a data set on disk is what its manifest says."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from trainer.dataset._images import SIGNATURES
from trainer.dataset._manifest import (
    SPLITS,
    Dataset,
    ImageRecord,
    Skipped,
    Split,
    SplitName,
    open_dataset,
    write_manifest,
)

BATCH = 1000  # images that a thread looks at in one go


class Finding(NamedTuple):
    """What is wrong or unusual with one file."""

    path: str  # below the data set's folder
    kind: Literal["bad", "warned", "handled", "unlisted"]  # bad: it would stop or spoil a training
    reason: str


def check_files(dataset: Dataset, *, progress: Callable[[int], None] = lambda _: None) -> Iterator[Finding]:
    """Look for files that are missing or changed in length, and for images that are not in the manifest.

    Args:
        dataset: an opened data set.
        progress: called with the number of images checked since the last call.
    """
    yield from in_threads(dataset, _check_batch, progress)
    yield from _unlisted(dataset)


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
    for index in indices:
        size = int(split.rows["bytes"][index])
        try:
            found = split.path(index).stat().st_size
        except OSError as error:
            yield Finding(split.name(index), "bad", f"cannot be read: {error.strerror}")
            continue
        if found != size or not split.path(index).is_file():
            yield Finding(split.name(index), "bad", f"has {found:,} bytes; it was prepared with {size:,}")


def _unlisted(dataset: Dataset) -> Iterator[Finding]:
    known = {split.name(index) for split in (dataset.train, dataset.val) for index in range(len(split))}
    known |= {entry.path for entry in dataset.skipped}
    for folder in sorted({os.path.dirname(path) for path in known}):
        try:
            names = sorted(os.listdir(dataset.root / folder))
        except OSError:
            continue  # its files have been reported as missing
        for name in names:
            path = f"{folder}/{name}"
            if path not in known and _is_image(dataset.root / path):
                yield Finding(path, "unlisted", "is an image that is not in the manifest; it is not used")


def _is_image(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(8).startswith(SIGNATURES)
    except OSError:
        return False


def counts_per_class(dataset: Dataset) -> Mapping[str, tuple[int, int]]:
    """Number of training and of validation images by class_id."""
    train, val = (
        np.bincount(split.labels, minlength=len(dataset.classes)) for split in (dataset.train, dataset.val)
    )
    return {name: (int(a), int(b)) for name, a, b in zip(dataset.classes, train, val, strict=True)}


def quarantine(dataset: Dataset, findings: Iterable[Finding]) -> Dataset:
    """Write the manifest without the bad files, then move them to `quarantine/` below the data set.

    Args:
        dataset: an opened data set.
        findings: findings about its files; those of kind "bad" are moved.

    Returns: the data set as it is then.
    Raises: DataError if a class would be left without images.
    """
    bad = {finding.path: finding.reason for finding in findings if finding.kind == "bad"}
    kept = [
        image
        for name, split in zip(SPLITS, (dataset.train, dataset.val), strict=True)
        for index in range(len(split))
        if (image := _record(dataset, name, split, index)).path not in bad
    ]
    metadata = {
        key: dataset.metadata[key]
        for key in ("name", "options", "archives", "published")
        if key in dataset.metadata
    }
    write_manifest(
        dataset.root,
        kept,
        [*dataset.skipped, *(Skipped(path, reason) for path, reason in bad.items())],
        metadata=metadata,
        class_names=dataset.metadata.get("class_names", {}),
    )
    for path in bad:
        if (dataset.root / path).exists():
            target = dataset.root / "quarantine" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(dataset.root / path, target)
    return open_dataset(dataset.root)


def _record(dataset: Dataset, name: SplitName, split: Split, index: int) -> ImageRecord:
    row = split.rows[index]
    numbers = (int(row[name]) for name in ("bytes", "width", "height", "crc32"))
    return ImageRecord(name, dataset.classes[int(row["label"])], split.name(index), *numbers)
