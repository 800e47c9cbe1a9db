"""What is wrong with a folder in which no data set is found, in words that say what to do: before a byte is copied."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainer.dataset._ignored import IgnoredCounts
from trainer.dataset._listing import ClassFolders
from trainer.dataset._look import Look
from trainer.dataset._manifest import SPLITS
from trainer.dataset._names import OTHER_IMAGES, has_control, several, shown
from trainer.errors import DataError

SPLIT_NAMES = frozenset(("train", "training", "val", "valid", "validation", "test", "testing"))
MOST = 20  # folders that are looked into

_CLASS_TAR = re.compile(r"n\d{8}\.tar")


def no_splits(look: Look) -> str:
    """What a folder has instead of train/ and val/, and what to do about it."""
    root = look.path
    has = [name for name in look.folders() if name.lower() in SPLIT_NAMES]
    said = f"{root} has no train/ and val/"
    if "train" in has:
        return (
            f"{said} but only {several(has)}; rename the folder that validates to val, or let a part of train "
            f"validate: trainer prepare folder {root / 'train'} --val-fraction 0.1"
        )
    if has:
        return f"{said} but {several(has)}; rename the two to train and val, or make a folder with links of these names"
    parent = Path(look.address).absolute().parent
    if look.name in SPLITS and set(SPLITS) <= set(Look(str(parent)).folders()):
        return f"{said}: it is one of the two; give the folder that holds both, {parent}"
    if below := data_sets_below(look):
        return f"{said}; {several(below)} in it have; give one of them, e.g. {root / below[0]}"
    return (
        f"{said}; if it holds one folder a class, give the fraction of each class that validates, "
        "e.g. --val-fraction 0.1"
    )


def data_sets_below(look: Look) -> list[str]:
    """Folders in a folder that hold train/ and val/."""
    return [name for name in look.folders()[:MOST] if set(SPLITS) <= set(look.folders(name))]


def check_class_folders(found: ClassFolders) -> None:
    """Every class folder must yield an image; a name that no list can hold is refused before the images are.

    Raises: DataError naming what is not so.
    """
    if not found.files and found.ignored:
        names = [one.path for one in found.ignored]
        raise DataError(
            f"{found.root} holds {len(names):,} files and no class folders (e.g. {shown(names[0])}); {_sort(names)}"
        )
    for name, files in found.files.items():
        below = {file.partition("/")[0] if "/" in file else "" for file in files}
        if below and "" not in below and (len(found.files) == 1 or {*map(str.lower, below)} <= SPLIT_NAMES):
            raise DataError(
                f"{found.root} holds {several(found.files)}; {shown(name)} would be a class of all images below "
                f"{several(below)}; give the folder that holds the class folders, e.g. {found.root / name}"
            )
    if unprintable := [name for name in found.files if has_control(name)]:
        raise DataError(
            f"{found.root} has class folders with control characters in their names ({several(unprintable)}); "
            "rename them"
        )
    if empty := [name for name, files in found.files.items() if not files]:
        counts = IgnoredCounts(found.ignored_in(empty[0])).result()
        pictures = " or convert its pictures to PNG or JPEG" if _has_pictures(counts) else ""
        raise DataError(
            f"{found.root} has {len(empty):,} class folder(s) without a JPEG, PNG or WebP ({several(empty)}); in "
            f"{shown(empty[0])}: {'; '.join(map(str, counts)) or 'no files'}; remove such folders{pictures}"
        )


def _sort(names: Sequence[str]) -> str:
    if any(map(_CLASS_TAR.fullmatch, names)):
        return "these are tars of one class each: unpack each into a folder of its name"
    return "sort them into one folder a class"


def _has_pictures(counts: Sequence[Any]) -> bool:
    return any(one.ending in OTHER_IMAGES for one in counts)
