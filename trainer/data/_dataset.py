"""A data set on disk: `DIR/{train,val}/CLASS/IMAGE`, the layout of ImageNet's reference scripts."""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.errors import DataError

ENDINGS = (".jpeg", ".jpg", ".png")


@dataclass(frozen=True)
class Split:
    """The images of one part of a data set, in one fixed order."""

    folder: Path
    paths: tuple[str, ...]  # below `folder`, sorted by class and name
    labels: npt.NDArray[np.int64]  # (len(paths),)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)


@dataclass(frozen=True)
class Dataset:
    """An opened data set. Labels are positions in `classes`."""

    name: str
    root: Path
    classes: tuple[str, ...]  # folder names in label order
    train: Split
    val: Split
    digest: str  # SHA-256 of classes, paths and file sizes


def open_dataset(root: Path) -> Dataset:
    """List the images below `root`; hidden files and folders and other file types are not images.

    Raises: DataError if a part is missing or empty, or the classes of the two parts differ.
    """
    if not root.is_dir():
        raise DataError(
            f"there is no data folder {root}; make one with `trainer prepare digits --out {root}` "
            "or give the folder that holds train/ and val/ with --data"
        )
    for part in ("train", "val"):
        if not (root / part).is_dir():
            raise DataError(
                f"the data folder {root} has no {part}/; it must hold train/CLASS/*.JPEG and val/CLASS/*.JPEG"
            )
    about = _about(root)
    classes = _class_folders(root / "train")
    _same_classes(root, classes, _class_folders(root / "val"))
    digest = hashlib.sha256(json.dumps(classes).encode())
    train, val = (_split(root / part, classes, digest) for part in ("train", "val"))
    return Dataset(
        name=str(about.get("name", root.resolve().name)),
        root=root,
        classes=classes,
        train=train,
        val=val,
        digest=digest.hexdigest(),
    )


def _about(root: Path) -> dict[str, object]:
    """What `trainer prepare` noted about the data set; nothing for a folder that was made otherwise."""
    try:
        about = json.loads((root / "dataset.json").read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise DataError(
            f"{root / 'dataset.json'} cannot be read ({error}); prepare the data set again"
        ) from None
    return about if isinstance(about, dict) else {}


def _class_folders(part: Path) -> tuple[str, ...]:
    with os.scandir(part) as entries:
        classes = tuple(sorted(e.name for e in entries if e.is_dir() and not e.name.startswith(".")))
    if not classes:
        raise DataError(f"{part} is empty; it must hold one folder of images for each class")
    return classes


def _same_classes(root: Path, train: tuple[str, ...], val: tuple[str, ...]) -> None:
    for one, other, extra in (
        ("train", "val", set(train) - set(val)),
        ("val", "train", set(val) - set(train)),
    ):
        if extra:
            shown = ", ".join(sorted(extra)[:3]) + (" …" if len(extra) > 3 else "")
            raise DataError(
                f"{root}/{one} has {len(extra)} class folder(s) that {root}/{other} lacks ({shown}); "
                "both must hold the same classes, or labels would mean different things"
            )


def _split(folder: Path, classes: tuple[str, ...], digest: hashlib._Hash) -> Split:
    paths: list[str] = []
    labels: list[npt.NDArray[np.int64]] = []
    for label, name in enumerate(classes):
        with os.scandir(folder / name) as entries:
            images = sorted(
                (e.name, e.stat().st_size)
                for e in entries
                if e.name.lower().endswith(ENDINGS) and not e.name.startswith(".")
            )
        if not images:
            raise DataError(
                f"{folder / name} holds no images ({', '.join(ENDINGS)}); fill it or remove the class"
            )
        digest.update(json.dumps([folder.name, name, images]).encode())
        paths += [f"{name}/{image}" for image, _ in images]
        labels.append(np.full(len(images), label, dtype=np.int64))
    return Split(folder=folder, paths=tuple(paths), labels=np.concatenate(labels))
