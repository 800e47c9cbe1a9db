"""Whether a data set on disk is what its manifest says."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from trainer.dataset._manifest import SPLITS, Dataset, ImageRecord, Skipped, Split, write_manifest
from trainer.dataset._preparation import SIGNATURES

BATCH = 1000  # images a thread looks at before it reports


class Finding(NamedTuple):
    """Something about one file."""

    path: str  # below the data set's folder
    kind: Literal["bad", "warned", "handled", "unlisted"]  # bad: it would stop or spoil a training
    reason: str


def check_files(dataset: Dataset, *, progress: Callable[[int], None] = lambda _: None) -> Iterator[Finding]:
    """Look for files that are missing or changed in length, and for images that the manifest does not know.

    Args:
        dataset: the opened data set.
        progress: told of the images looked at.
    """
    yield from in_threads(dataset, _check_batch, progress)
    yield from _unlisted(dataset)


def in_threads(
    dataset: Dataset,
    look: Callable[[Split, range], Iterable[Finding]],
    progress: Callable[[int], None],
    *,
    batch: int = BATCH,
) -> Iterator[Finding]:
    """Let all processors `look` at the images, some at a time; findings come in the manifest's order."""
    threads = len(os.sched_getaffinity(0))
    pending: deque[tuple[int, Future[list[Finding]]]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for split in (dataset.train, dataset.val):
            for start in range(0, len(split), batch):
                part = range(start, min(start + batch, len(split)))
                pending.append((len(part), pool.submit(lambda s=split, p=part: list(look(s, p)))))  # type: ignore[misc]
                while len(pending) > 4 * threads:
                    yield from _first(pending, progress)
        while pending:
            yield from _first(pending, progress)


def _first(
    pending: deque[tuple[int, Future[list[Finding]]]], progress: Callable[[int], None]
) -> Iterator[Finding]:
    count, looked = pending.popleft()
    yield from looked.result()
    progress(count)


def _check_batch(split: Split, indices: range) -> Iterator[Finding]:
    for index in indices:
        size = int(split.rows["bytes"][index])
        try:
            about = split.path(index).stat()
        except OSError as error:
            yield Finding(split.name(index), "bad", f"cannot be read: {error.strerror}")
            continue
        if about.st_size != size or not split.path(index).is_file():
            yield Finding(
                split.name(index), "bad", f"has {about.st_size:,} bytes; it was prepared with {size:,}"
            )


def _unlisted(dataset: Dataset) -> Iterator[Finding]:
    known = {part.name(index) for part in (dataset.train, dataset.val) for index in range(len(part))}
    known |= {entry.path for entry in dataset.left_out}
    for folder in sorted({os.path.dirname(path) for path in known}):
        try:
            names = sorted(os.listdir(dataset.root / folder))
        except OSError:
            continue  # its files were reported as missing
        for name in names:
            path = f"{folder}/{name}"
            if path not in known and _is_image(dataset.root / path):
                yield Finding(path, "unlisted", "is an image that the manifest does not know; it is not used")


def _is_image(path: Path) -> bool:
    try:
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(8).startswith(SIGNATURES)
    except OSError:
        return False


def counts_per_class(dataset: Dataset) -> Mapping[str, tuple[int, int]]:
    """Training and validation images of each class."""
    train, val = (
        np.bincount(part.labels, minlength=len(dataset.classes)) for part in (dataset.train, dataset.val)
    )
    return {name: (int(a), int(b)) for name, a, b in zip(dataset.classes, train, val, strict=True)}


def quarantine(dataset: Dataset, findings: Iterable[Finding]) -> Dataset:
    """Write the manifest without the bad files, then move them to `quarantine/` below the data set.

    Returns: the data set as it is now.
    Raises: DataError if a class would be left without images.
    """
    from trainer.dataset._manifest import open_dataset

    bad = {finding.path: finding.reason for finding in findings if finding.kind == "bad"}
    kept = [
        image
        for part, split in zip(SPLITS, (dataset.train, dataset.val), strict=True)
        for index in range(len(split))
        if (image := _facts(dataset, split, index, part)).path not in bad
    ]
    about = {
        key: dataset.about[key]
        for key in ("name", "options", "archives", "published")
        if key in dataset.about
    }
    write_manifest(
        dataset.root,
        kept,
        [*dataset.left_out, *(Skipped(path, reason) for path, reason in bad.items())],
        about=about,
        class_names=dataset.about.get("class_names", {}),
    )
    for path in bad:
        if (dataset.root / path).exists():
            there = dataset.root / "quarantine" / path
            there.parent.mkdir(parents=True, exist_ok=True)
            os.replace(dataset.root / path, there)
    return open_dataset(dataset.root)


def _facts(dataset: Dataset, split: Split, index: int, part: Literal["train", "val"]) -> ImageRecord:
    row = split.rows[index]
    numbers = (int(row[name]) for name in ("bytes", "width", "height", "crc32"))
    return ImageRecord(part, dataset.classes[int(row["label"])], split.name(index), *numbers)
