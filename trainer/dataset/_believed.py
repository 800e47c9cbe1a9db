"""What a manifest must hold before it is believed: it may be damaged, edited by hand, or a stranger's.

Its digest does not cover all of it, and whoever writes a manifest writes the digest as well.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.dataset._places import are_places

OUTSIDE = "its index has paths that are not below its folder"
FIELDS = [
    ("label", "<u2"),
    ("width", "<u2"),
    ("height", "<u2"),
    ("bytes", "<u4"),
    ("crc32", "<u4"),
]  # and path


def row_type(path_bytes: int) -> np.dtype[np.void]:
    """Type of an image's row in the index, for paths of at most so many bytes."""
    return np.dtype([*FIELDS, ("path", f"S{path_bytes}")])


def check_entries(metadata: Any) -> None:
    """Check that the entries of `dataset.json` are what their names say; entries that are not known are let be.

    Raises: ValueError naming the entry.
    """
    if not isinstance(metadata, Mapping):
        raise ValueError("it is no JSON object")
    for name, is_right in ENTRIES.items():
        if name not in metadata and name not in LATER:
            raise ValueError(f"it has no entry {name!r}")
        if name in metadata and not is_right(metadata[name]):
            raise ValueError(f"its entry {name!r} is not what it should be")


def check_rows(rows: npt.NDArray[np.void], classes: int, train: int, *, by_class: bool = False) -> None:
    """Check that the index lists images below the data set's folder, by split and class.

    Args:
        rows: the index, (N,).
        classes: number of classes.
        train: number of training images, which come first.
        by_class: whether paths must be SPLIT/CLASS/NAME, because images lie elsewhere.

    Raises: ValueError with what it lists instead.
    """
    if rows.ndim != 1 or rows.dtype != row_type(rows.dtype["path"].itemsize if rows.dtype.names else 1):
        raise ValueError("its index is no list of images")
    for split in (rows["label"][:train], rows["label"][train:]):
        if not np.array_equal(np.flatnonzero(np.bincount(split)), np.arange(classes)):
            raise ValueError("its classes are not those of its index")
        if (split[:-1] > split[1:]).any():
            raise ValueError("its counts are not those of its index")
    if not all(rows[field].all() for field in ("width", "height", "bytes")):
        raise ValueError("its index has images of no size")
    width = rows.dtype["path"].itemsize + 1  # with a zero behind each path
    paths = rows["path"].astype(f"S{width}")
    letters, lengths = paths.view(np.uint8).reshape(-1, width), np.char.str_len(paths)
    if not lengths.all() or np.count_nonzero(letters) != lengths.sum() or (letters[:, 0] == ord("/")).any():
        raise ValueError(OUTSIDE)
    text = b"\0" + paths.tobytes()
    if b".." in text and re.search(rb"[\0/]\.\.[\0/]", text):  # the first is quick
        raise ValueError(OUTSIDE)
    if by_class and (b"//" in text or (np.char.count(paths, b"/") < 2).any()):
        raise ValueError("its index has paths without a class folder")


def _is_count(value: object, least: int = 0) -> bool:
    return type(value) is int and value >= least


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _is_list(value: object, *kinds: type) -> bool:
    """Whether a list has lists of values of these kinds."""
    return isinstance(value, list) and all(
        isinstance(one, list) and tuple(map(type, one)) == kinds for one in value
    )


def _are_classes(value: object) -> bool:
    return isinstance(value, list) and all(map(_is_text, value)) and value == sorted(set(value)) != []


def _are_counts(value: object) -> bool:
    return isinstance(value, Mapping) and all(_is_count(value.get(split), 1) for split in ("train", "val"))


ENTRIES: Mapping[str, Callable[[Any], bool]] = {
    "format": lambda value: _is_count(value, 1),
    "name": _is_text,
    "digest": lambda value: isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) is not None,
    "classes": _are_classes,
    "counts": _are_counts,
    "skipped": lambda value: _is_list(value, str, str),
    "class_names": lambda value: isinstance(value, Mapping) and all(map(_is_text, value.values())),
    "options": lambda value: isinstance(value, Mapping),
    "published": lambda value: value is None or _is_list([value], int, int),
    "ignored": lambda value: _is_list(value, str, str, int, str),
    "images": are_places,
}
LATER = ("class_names", "published", "ignored", "images")  # an early version did not write them
