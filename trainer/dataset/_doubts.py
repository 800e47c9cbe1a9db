"""What is not wrong with a data set but hardly meant so."""

from __future__ import annotations

import filecmp
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.dataset._completeness import Completeness, completeness
from trainer.dataset._manifest import Dataset, Split
from trainer.dataset._names import shown

# ImageNet as published has some images twice; of so few, in a published set, nothing changes that could be measured.
HANDFUL = 0.001  # of a split's images
COMPARED = 3  # pairs of each kind whose files are read


class Copies(NamedTuple):
    """Images of a content that is there already, by length and CRC-32."""

    number: int
    example: tuple[str, str] | None  # a copy, and what it is a copy of: paths below the data set's folder


class Duplicates(NamedTuple):
    """Images of the same content."""

    train: Copies  # within the training images
    val: Copies  # within the validation images
    between: Copies  # validation images that are training images too


def doubts(dataset: Dataset) -> list[str]:
    """Sentences about what somebody should look at before a training."""
    against = completeness(dataset)
    found = _about_counts(dataset, against)
    if len(dataset.classes) == 1:
        found.append("there is one class only: whatever is trained will be right always")
    handful = HANDFUL if against else 0
    same = duplicates(dataset)
    if same.between.number > handful * len(dataset.val):
        found.append(
            f"{same.between.number:,} of {len(dataset.val):,} validation images are training images too, byte for byte"
            f"{_example(same.between)}: the accuracy will be that of images learned by heart"
        )
    within = (same.train, dataset.train, "training"), (same.val, dataset.val, "validation")
    for copies, split, images in within if against else ():
        if copies.number > handful * len(split):
            found.append(
                f"{copies.number:,} of {len(split):,} {images} images are copies of others, byte for byte"
                f"{_example(copies)}"
            )
    return found


def duplicates(dataset: Dataset) -> Duplicates:
    """Count images of the same content; a few are read, so that one which is named is a copy indeed."""
    train, val = _contents(dataset.train), _contents(dataset.val)
    ordered = np.sort(train)  # np.isin would sort all of both, and more slowly
    shared = np.flatnonzero(ordered[np.searchsorted(ordered, val).clip(max=len(ordered) - 1)] == val)
    return Duplicates(
        train=_copies(*_repeats(train), dataset.train, train, dataset.train),
        val=_copies(*_repeats(val), dataset.val, val, dataset.val),
        between=_copies(len(shared), val[shared[:COMPARED]], dataset.val, train, dataset.train),
    )


def _about_counts(dataset: Dataset, against: Completeness | None) -> list[str]:
    counts, published = (len(dataset.train), len(dataset.val)), dataset.metadata.get("published")
    found = []
    if published and tuple(published) != counts and not (against and against.whole):
        found.append(f"published are {published[0]:,} and {published[1]:,} images")
    if against and against.problems():
        found.append(against.describe())
    return ["; ".join(found)] if found else []


def _repeats(contents: npt.NDArray[np.uint64]) -> tuple[int, npt.NDArray[np.uint64]]:
    """Number of images whose content another one before them has, and some of these contents."""
    ordered = np.sort(contents)
    repeated = ordered[1:][ordered[1:] == ordered[:-1]]
    return len(repeated), np.unique(repeated)[:COMPARED]


def _copies(
    number: int,
    some: Iterable[np.uint64],
    split: Split,
    others: npt.NDArray[np.uint64],
    among: Split,
) -> Copies:
    """Copies in `split` of images in `among`, with one that was compared byte by byte.

    Args:
        number: of images that are copies by length and checksum.
        some: contents that are there twice.
        split: that has the copies.
        others: contents of the images in `among`.
        among: what they are copies of; may be the same split.
    """
    example = None
    for content in some:
        second = int(np.flatnonzero(_contents(split) == content)[-1])
        first = int(np.flatnonzero(others == content)[0])
        if _differ(split, second, among, first):
            number -= 1
        elif example is None:
            example = split.name(second), among.name(first)
    return Copies(number, example)


def _differ(split: Split, index: int, other: Split, at: int) -> bool:
    """Whether two files are there and differ."""
    try:
        return not filecmp.cmp(split.path(index), other.path(at), shallow=False)
    except OSError:  # `check` names those that cannot be read
        return False


def _example(copies: Copies) -> str:
    return f" (e.g. {shown(copies.example[0])} is {shown(copies.example[1])})" if copies.example else ""


def _contents(split: Split) -> npt.NDArray[np.uint64]:
    """A number for the content of each image (N,): its length and its checksum."""
    return split.rows["bytes"].astype(np.uint64) << np.uint64(32) | split.rows["crc32"].astype(np.uint64)
