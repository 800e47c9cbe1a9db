"""Whether a data set is whole: its images by class and split against those that were published.

Classes are known by their wnids, whatever form the images came from and however they were resized. A user's own
classes have no published counts, and neither have ImageNet's together with others.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.dataset._manifest import SPLITS, Dataset, Split, SplitName
from trainer.dataset._names import shown
from trainer.dataset.forms._imagenet_labels import imagenet_classes, imagenet_val_labels, published_sets
from trainer.errors import DataError

Counts = npt.NDArray[np.int64]  # (C, 2): images of each class to train and to validate

TITLES = {
    "imagenet": "ImageNet",
    "imagenette": "Imagenette",
    "imagewoof": "Imagewoof",
    "tiny-imagenet": "Tiny ImageNet",
}
# Of a split's images so many may be unusable without being in the way of a training: all are named with their reasons
# when they are prepared, and 50 of 50,000 validation images are 0.1 % of accuracy at most, as much as another seed.
UNUSABLE = 0.001
NAMED = 3  # classes that a sentence names
_NAME_OF_VAL = b"ILSVRC2012_val_"
_CLAIM = re.compile(r"(?:(n\d{8})_|ILSVRC2012_val_(\d{8})\b)")


class Misplaced(NamedTuple):
    """An image whose file name says another class than it has in the data set."""

    split: SplitName
    path: str  # below the data set's folder
    class_id: str  # it has
    belongs: str  # wnid by its name


@dataclass(frozen=True)
class Completeness:
    """The images of a data set of published classes against the published ones, by class and split."""

    name: str  # of what was published
    whole: bool  # whether all of its classes are there; of a part by choice nobody published counts
    classes: tuple[str, ...]  # wnids, sorted
    expected: Counts
    found: Counts
    skipped: Counts  # files that were not taken, being unusable; they are missing too
    misplaced: tuple[Misplaced, ...]

    @cached_property
    def missing(self) -> Counts:
        """Images fewer than published, (C, 2)."""
        return _above_zero(self.expected - self.found)

    @cached_property
    def extra(self) -> Counts:
        """Images more than published, (C, 2)."""
        return _above_zero(self.found - self.expected)

    def complete(self, splits: tuple[SplitName, ...] = SPLITS) -> bool:
        """Whether the splits are as published, but for a few unusable images, which `prepare` has named."""
        columns = [SPLITS.index(split) for split in splits]
        unusable = np.minimum(self.missing, self.skipped).sum(axis=0)
        tolerated = UNUSABLE * self.expected.sum(axis=0)
        silent = self.missing > self.skipped
        wrong = silent.any(axis=0) | (self.extra > 0).any(axis=0) | (unusable > tolerated)
        return not wrong[columns].any() and not self._misplaced_in(splits)

    def problems(self, splits: tuple[SplitName, ...] = SPLITS) -> list[str]:
        """What is missing, too much or in the wrong class, in words, with the worst classes."""
        found = []
        for column, (split, images) in enumerate(zip(SPLITS, ("training", "validation"), strict=True)):
            if split not in splits:
                continue
            expected, skipped = int(self.expected[:, column].sum()), int(self.skipped[:, column].sum())
            if missing := int(self.missing[:, column].sum()):
                found.append(
                    f"{missing:,} of {expected:,} {images} images are missing"
                    + (f", {skipped:,} of them unusable" if skipped else "")
                    + f" ({self._worst(self.missing[:, column], column)})"
                )
            if extra := int(self.extra[:, column].sum()):
                found.append(
                    f"there are {extra:,} {images} images more than published "
                    f"({self._worst(self.extra[:, column], column)})"
                )
        if misplaced := self._misplaced_in(splits):
            one = misplaced[0]
            found.append(
                f"{len(misplaced):,} image(s) are in another class than their names say "
                f"({shown(one.path)} belongs to {one.belongs})"
            )
        return found

    def describe(self) -> str:
        """One line for a tag: whether the data set is as published, or what is not."""
        problems = "; ".join(self.problems())
        if not self.whole:
            return f"{len(self.classes):,} classes of {self.name}" + (f", {problems}" if problems else "")
        if self.complete():
            return f"{self.name} as published" + (f" but for a few: {problems}" if problems else "")
        return f"not {self.name} as published: {problems}"

    def as_dict(self) -> dict[str, Any]:
        """The same in numbers, for JSON."""
        return {
            "name": self.name,
            "whole": self.whole,
            "complete": self.complete(),
            **{
                split: {
                    what: int(getattr(self, what)[:, column].sum())
                    for what in ("expected", "found", "missing", "extra", "skipped")
                }
                for column, split in enumerate(SPLITS)
            },
            "misplaced": len(self.misplaced),
        }

    def _worst(self, difference: npt.NDArray[np.int64], column: int) -> str:
        """The classes with the largest difference, the worst first."""
        order = np.argsort(-difference, kind="stable")[: min(NAMED, int((difference > 0).sum()))]
        named = [
            f"{self.classes[at]} has {self.found[at, column]:,} of {self.expected[at, column]:,}"
            for at in order
        ]
        more = int((difference > 0).sum()) - len(named)
        return ", ".join(named) + (f", and {more:,} more classes" if more else "")

    def _misplaced_in(self, splits: tuple[SplitName, ...]) -> list[Misplaced]:
        return [one for one in self.misplaced if one.split in splits]


def completeness(dataset: Dataset) -> Completeness | None:
    """Compare a data set with what was published; None for classes that nobody published.

    A set of ImageNet's wnids that is no published one is compared with ImageNet, class by class.
    Where several published sets have these classes, as Imagenette and ImageNet, the nearest one counts.
    """
    classes = dataset.classes
    if not imagenet_classes().keys() >= set(classes):
        return None
    found = np.stack(
        [np.bincount(split.labels, minlength=len(classes)) for split in (dataset.train, dataset.val)], axis=1
    ).astype(np.int64)
    # The published one with just these classes comes first, for of two that are alike the first is taken.
    sets = [(name, counts, counts.keys() == set(classes)) for name, counts in published_sets().items()]
    candidates = [one for one in sets if one[2]] + [one for one in sets if one[0] == "imagenet"]
    split_off = bool((dataset.metadata.get("options") or {}).get("val_fraction"))
    compared = [
        (_expected(counts, classes, found, split_off), name, whole) for name, counts, whole in candidates
    ]
    expected, name, whole = min(compared, key=lambda one: int(np.abs(one[0] - found).sum()))
    return Completeness(
        name=TITLES[name],
        whole=whole,
        classes=classes,
        expected=expected,
        found=found,
        skipped=_count_skipped(dataset),
        misplaced=(*_misplaced("train", dataset.train, classes), *_misplaced("val", dataset.val, classes)),
    )


def require_complete(dataset: Dataset, *, partial: bool, splits: tuple[SplitName, ...] = SPLITS) -> None:
    """Refuse a published data set of which a part is missing or wrong, unless that is meant.

    Args:
        dataset: to be trained on, or evaluated.
        partial: whether a part is meant.
        splits: that matter.

    Raises: DataError naming how many images are missing, and the worst classes.
    """
    if partial:
        return
    against = completeness(dataset)
    if against is not None and against.whole and not against.complete(splits):
        raise DataError(
            f"{dataset.root} is not {against.name} as published: {'; '.join(against.problems(splits))}; prepare it "
            f"again from all of its source (`trainer check {dataset.root}` counts each class), or use it as it is "
            "with --partial"
        )


def counts_per_class(
    dataset: Dataset, against: Completeness | None
) -> dict[str, dict[str, dict[str, int | None]]]:
    """Numbers of images by class_id and split: found, and where they are known, expected and skipped.

    Args:
        dataset: an opened data set.
        against: its comparison with the published one, if there is one.
    """
    found = [
        np.bincount(split.labels, minlength=len(dataset.classes)) for split in (dataset.train, dataset.val)
    ]
    return {
        class_id: {
            split: {
                "expected": int(against.expected[at, column]) if against else None,
                "found": int(found[column][at]),
                "skipped": int(against.skipped[at, column]) if against else None,
            }
            for column, split in enumerate(SPLITS)
        }
        for at, class_id in enumerate(dataset.classes)
    }


def _above_zero(difference: Counts) -> Counts:
    return difference.clip(min=0)


def _expected(
    counts: Mapping[str, tuple[int, int]], classes: Sequence[str], found: Counts, split_off: bool
) -> Counts:
    expected = np.array([counts[one] for one in classes], dtype=np.int64)
    if split_off:  # the validation images are training images that were split off
        expected = np.stack([expected[:, 0] - found[:, 1], found[:, 1]], axis=1)
    return expected


def _count_skipped(dataset: Dataset) -> Counts:
    """Files of each class and split that were not taken."""
    position = {class_id: at for at, class_id in enumerate(dataset.classes)}
    counts = np.zeros((len(dataset.classes), len(SPLITS)), dtype=np.int64)
    for path, _ in dataset.skipped:
        folders = path.split("/")[:-1]
        class_id = next((one for one in reversed(folders) if one in position), None) or _claimed(path)
        if class_id in position:
            counts[position[class_id], SPLITS.index(_split_of(path))] += 1
    return counts


def _split_of(path: str) -> SplitName:
    """Split of a path, by its folders, else by its name."""
    folders = path.split("/")[:-1]
    if "val" in folders or "train" in folders:
        return "val" if "val" in folders else "train"
    return "val" if path.rpartition("/")[2].startswith(_NAME_OF_VAL.decode()) else "train"


def _claimed(path: str) -> str | None:
    """Wnid that the name of a file says; None if it says none."""
    found = _CLAIM.match(path.rpartition("/")[2])
    if found is None:
        return None
    if found[1]:
        return found[1]
    labels, number = imagenet_val_labels(), int(found[2])
    return tuple(imagenet_classes())[labels[number - 1]] if 1 <= number <= len(labels) else None


def _misplaced(name: SplitName, split: Split, classes: Sequence[str]) -> Iterator[Misplaced]:
    """Images whose names say another class; those that are named as ImageNet names them are passed in one go."""
    for at in _unclear(split, classes).tolist():
        path, class_id = split.name(at), classes[split.labels[at]]
        belongs = _claimed(path)
        if belongs not in (None, class_id):
            yield Misplaced(name, path, class_id, str(belongs))


def _unclear(split: Split, classes: Sequence[str]) -> npt.NDArray[np.int64]:
    """Indices of the images whose names do not plainly say the class that they have."""
    letters = _letters(split.rows)
    start = split.name(0).encode("utf-8", "surrogateescape").rfind(b"/") + 1  # the same for most
    letters = np.pad(letters[:, start:], ((0, 0), (0, 1)))
    wnids = np.array(classes, dtype="S9").view(np.uint8).reshape(-1, 9)
    labels = split.labels
    plain = np.zeros(len(split), dtype=bool)
    if letters.shape[1] > 10:
        plain = (letters[:, :9] == wnids[labels]).all(axis=1) & (letters[:, 9] == ord("_"))
    digits = slice(len(_NAME_OF_VAL), len(_NAME_OF_VAL) + 8)
    if letters.shape[1] > digits.stop:
        rest = np.flatnonzero(~plain)
        rest = rest[(letters[rest, : digits.start] == np.frombuffer(_NAME_OF_VAL, np.uint8)).all(axis=1)]
        numbers = (letters[rest, digits].astype(np.int64) - ord("0")) @ 10 ** np.arange(7, -1, -1)
        known = np.array(imagenet_val_labels())
        position = {wnid: at for at, wnid in enumerate(imagenet_classes())}
        ours = np.array([position[one] for one in classes])
        inside = (numbers >= 1) & (numbers <= len(known))
        plain[rest] = inside & (known[np.where(inside, numbers, 1) - 1] == ours[labels[rest]])
    return np.flatnonzero(~plain | (letters == ord("/")).any(axis=1))


def _letters(rows: npt.NDArray[np.void]) -> npt.NDArray[np.uint8]:
    """The paths of an index as they lie in memory, (N, L), filled up with zeros."""
    kind, offset = rows.dtype.fields["path"][:2]  # type: ignore[index]
    return np.ndarray(
        (len(rows), kind.itemsize), np.uint8, buffer=rows, offset=offset, strides=(rows.dtype.itemsize, 1)
    )
