"""The user's own class folders: `DIR/{train,val}/CLASS/IMAGE`, or `DIR/CLASS/IMAGE` to be split."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from trainer.dataset._manifest import SPLITS, Skipped, SplitName
from trainer.dataset._source import Source, SourceImage
from trainer.dataset.forms._form import Fetch, Form, Identity
from trainer.errors import DataError

SUFFIXES = (".jpeg", ".jpg", ".png")
MAX_BYTES = 2**28  # of an image


def folder(
    root: Path, *, out: Path, val_fraction: float | None = None, seed: int = 0, name: str = ""
) -> Source:
    """Class folders, with train/ and val/ or to be split.

    Files whose names begin with a dot or have another suffix are no images; links are followed. A file that
    cannot be used is skipped and named.

    Args:
        root: path of the folder.
        out: path of the data set; if it is `root` itself, the images stay where they are.
        val_fraction: fraction of each class that validates, at least one image of it; None if the folder
            has train/ and val/.
        seed: seed of the choice of these images.
        name: name of the data set; by default that of the folder.

    Raises: DataError if there is no such folder, it has no train/ and val/ and shall not be split, or `out` is
        inside it.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; give the folder that holds the class folders")
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise DataError(
            f"--val-fraction is the fraction of each class that validates, between 0 and 1, not {val_fraction}"
        )
    in_place = root.resolve() == out.resolve()
    if not in_place and out.resolve().is_relative_to(root.resolve()):
        raise DataError(
            f"{out} is inside {root}; give a folder outside, or none to leave the images in place"
        )
    if val_fraction is None and not ((root / "train").is_dir() and (root / "val").is_dir()):
        raise DataError(
            f"{root} has no train/ and val/; if it holds one folder a class, give the fraction of each class "
            "that validates, e.g. --val-fraction 0.1"
        )

    def images() -> Iterator[SourceImage | Skipped]:
        if val_fraction is None:
            for split in SPLITS:
                for class_id in _class_ids(root / split):
                    for file in _image_names(root / split / class_id):
                        yield _image(root, f"{split}/{class_id}/{file}", split, class_id, in_place)
            return
        for class_id in _class_ids(root):
            files = _image_names(root / class_id)
            val = _val_names(files, val_fraction, seed=seed, class_id=class_id)
            for file in files:
                split = "val" if file in val else "train"
                yield _image(root, f"{class_id}/{file}", split, class_id, in_place)

    return Source(
        name=name or root.resolve().name,
        images=images,
        bytes=0 if in_place else _total_bytes(root),
        options=_options(val_fraction, seed),
        in_place=in_place,
    )


def _options(val_fraction: float | None, seed: int) -> dict[str, Any]:
    return {} if val_fraction is None else {"val_fraction": val_fraction, "seed": seed}


def _image(root: Path, path: str, split: SplitName, class_id: str, in_place: bool) -> SourceImage | Skipped:
    """One of the user's files. A FIFO or a device would hang whoever reads it."""
    try:
        status = (root / path).stat()
    except OSError as error:
        return Skipped(path, f"cannot be read: {error.strerror}")
    if not (root / path).is_file():
        return Skipped(path, "is not a regular file")
    if not path.isprintable():
        return Skipped(repr(path), "has control characters in its name")
    if status.st_size > MAX_BYTES:
        return Skipped(path, f"has {status.st_size:,} bytes; too many for an image")
    target = path if in_place else f"{split}/{class_id}/{os.path.basename(path)}"
    return SourceImage(split, class_id, target, status.st_size, (root / path).read_bytes)


def _class_ids(root: Path) -> list[str]:
    try:
        with os.scandir(root) as entries:
            return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise DataError(f"{root} cannot be listed: {error.strerror}") from None


def _image_names(root: Path) -> list[str]:
    try:
        return sorted(n for n in os.listdir(root) if n.lower().endswith(SUFFIXES) and not n.startswith("."))
    except OSError as error:
        raise DataError(f"{root} cannot be listed: {error.strerror}") from None


def _val_names(names: Sequence[str], fraction: float, *, seed: int, class_id: str) -> set[str]:
    """The images of a class that validate. Other classes have no influence on them."""
    count = min(max(1, round(fraction * len(names))), len(names) - 1)
    rng = np.random.default_rng([seed, *class_id.encode()])
    return {names[index] for index in rng.permutation(len(names))[: max(0, count)]}


def _total_bytes(root: Path) -> int:
    return sum(
        os.path.getsize(os.path.join(folder, name))
        for folder, _, names in os.walk(root, followlinks=True)
        for name in names
        if name.lower().endswith(SUFFIXES) and os.path.isfile(os.path.join(folder, name))
    )


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "folder",
        type=Path,
        metavar="DIR",
        help="folder that holds train/CLASS/* and val/CLASS/*, or CLASS/* to be split",
    )
    parser.add_argument(
        "--val-fraction",
        type=float,
        metavar="FRACTION",
        help="fraction of each class that validates, between 0 and 1, where there is no val/",
    )
    parser.add_argument("--name", default="", help="name of the data set (default: that of the folder)")
    parser.add_argument(
        "--seed", type=int, default=0, help="seed of the choice of validation images (default: 0)"
    )


def _identity(options: Namespace) -> Identity:
    name = options.name or options.folder.resolve().name
    return name, _options(options.val_fraction, options.seed)


def _source(options: Namespace, out: Path, fetch: Fetch) -> Source:
    return folder(
        options.folder, out=out, val_fraction=options.val_fraction, seed=options.seed, name=options.name
    )


FORM = Form(
    name="folder",
    help="your own folders, one for each class",
    example="folder /data/birds --val-fraction 0.1",
    add_arguments=_add_arguments,
    identity=_identity,
    source=_source,
    in_place=True,
)
