"""The user's own class folders: `DIR/{train,val}/CLASS/…`, or `DIR/CLASS/…` to be split."""

from __future__ import annotations

import os
import stat
from argparse import ArgumentParser, ArgumentTypeError, Namespace
from collections.abc import Iterator, Mapping, Sequence, Set
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from trainer.dataset._ignored import Ignored
from trainer.dataset._listing import ClassFolders, list_class_folders
from trainer.dataset._look import Look
from trainer.dataset._manifest import (
    SPLITS,
    Skipped,
    SplitName,
    check_classes,
    image_records,
    open_dataset,
    read_metadata,
)
from trainer.dataset._names import has_control, has_image_ending, same_to_the_eye, several, shown, utf8, words
from trainer.dataset._places import Places
from trainer.dataset._source import Source, SourceImage
from trainer.dataset.forms._form import Fetch, Form, Found, Identity
from trainer.dataset.forms._imagenet_labels import IMAGENET, imagenet_classes
from trainer.dataset.forms._mistakes import SPLIT_NAMES, check_class_folders, data_sets_below, no_splits
from trainer.dataset.forms._trees import Tree, class_folders, find_tree, flat_val, table
from trainer.dataset.forms.tiny_imagenet import TINY_IMAGENET
from trainer.errors import DataError
from trainer.files import read_regular

MAX_BYTES = 2**28  # of an image
PUBLISHED = {"imagenet": IMAGENET, "tiny-imagenet": TINY_IMAGENET}
WORDS = "words.txt"  # of Tiny ImageNet


def folder(
    root: Path,
    *,
    out: Path,
    in_place: bool | None = None,
    val_fraction: float | None = None,
    seed: int = 0,
    name: str = "",
) -> Source:
    """Class folders, with train/ and val/ or to be split; ImageNet and Tiny ImageNet also as they are published.

    All images below a class folder are of its class; links are followed. Files whose names say that they are no images
    are counted; a file that cannot be used is skipped and named.

    Args:
        root: path of the folder.
        out: path of the data set; if it is `root` itself, the images stay where they are.
        in_place: whether they stay there although `out`, the folder of the manifest, is another.
        val_fraction: fraction of each class that validates, at least one image of it; None if the folder
            has train/ and val/.
        seed: seed of the choice of these images.
        name: name of the data set; by default that it had when it was prepared first, else that of what is
            published, else that of the folder.

    Raises: DataError if there is no such folder, it has no train/ and val/ and shall not be split, a class folder has
        no images, train/ and val/ have different classes, or `out` is inside the folder.
    """
    if not os.path.isdir(root):  # Path.is_dir lets errors pass, such as that of a name that is too long
        raise DataError(f"there is no folder {root}; give the folder that holds the class folders")
    if val_fraction is not None and not 0 < val_fraction < 1:
        raise DataError(
            f"--val-fraction is the fraction of each class that validates, between 0 and 1, not {val_fraction}"
        )
    is_same = root.resolve() == out.resolve()
    in_place = is_same if in_place is None else in_place
    if not is_same and out.resolve().is_relative_to(root.resolve()):
        raise DataError(
            f"{out} is inside {root}; give a folder outside, or none to leave the images in place"
        )
    tree = None
    if val_fraction is None:
        look = Look(str(root))
        if (tree := find_tree(look)) is None:
            raise DataError(no_splits(look))
        groups, ignored = _split_by_folder(root, tree)
    else:
        known = _known_splits(out, _options(val_fraction, seed), in_place=in_place)
        groups, ignored = _split_by_chance(root, val_fraction, seed, known)
    class_ids = {split: {one.class_id for one in groups if one.split == split} for split in SPLITS}
    check_classes(root, class_ids)

    def images() -> Iterator[SourceImage | Skipped | Ignored]:
        for group in groups:
            for file in group.files:
                yield _image(root, group, file, in_place)
        yield from ignored

    return Source(
        name=name or _default_name(root, out if in_place else None, tree, class_ids["train"]),
        images=images,
        bytes=0 if in_place else sum(_size(root / one.folder / file) for one in groups for file in one.files),
        options=_options(val_fraction, seed),
        published=PUBLISHED.get(tree.kind) if tree else None,
        class_names=lambda: _class_names(root, tree),
        in_place=in_place,
        places=Places("" if is_same else str(root.resolve()), tree.patterns() if tree else {})
        if in_place
        else Places(),
        own=True,
        name_given=bool(name),
        origin=str(root),
        class_ids=class_ids["train"],
    )


def _default_name(root: Path, manifest: Path | None, tree: Tree | None, class_ids: Set[str]) -> str:
    """A data set that stays in its folder keeps its name when that is moved."""
    if manifest and (metadata := read_metadata(manifest)):
        return str(metadata["name"])
    if tree and tree.kind:
        return tree.kind
    if class_ids == imagenet_classes().keys():
        return "imagenet"
    return words((root.resolve() / (tree.top if tree else "")).name)


def _class_names(root: Path, tree: Tree | None) -> Mapping[str, str]:
    """ImageNet's names of WordNet ids, and what Tiny ImageNet's words.txt says beside."""
    if tree and tree.kind == "tiny-imagenet" and (root / tree.top / WORDS).is_file():
        return table(root / tree.top / WORDS)
    return imagenet_classes()


def _options(val_fraction: float | None, seed: int) -> dict[str, Any]:
    return {} if val_fraction is None else {"val_fraction": val_fraction, "seed": seed}


class _Group(NamedTuple):
    """Images of one class and split, by their names."""

    split: SplitName
    class_id: str
    folder: str  # theirs, below the user's folder
    here: str  # the same in the manifest if they stay there
    target: str  # folder to which they are copied, below the data set's
    files: list[str]  # below their folder


def _split_by_folder(root: Path, tree: Tree) -> tuple[list[_Group], list[Ignored]]:
    """Images of train/ and val/."""
    groups: list[_Group] = []
    ignored: list[Ignored] = []
    train: dict[str, str] = {}  # class by its name, as it looks
    for split in SPLITS:
        if split == "val" and tree.flat_val:
            by_class, others = flat_val(root, tree)
            for class_id, files in by_class.items():
                path = f"{split}/{class_id}"
                groups.append(_Group(split, class_id, tree.folder(split), path, path, files))
            ignored += others
            continue
        found, others = class_folders(root, tree, split)
        check_class_folders(found)
        ignored += others
        ids = _ids(found)
        for name in ids:
            same = train.setdefault(same_to_the_eye(name), name) if split == "train" else _alike(name, train)
            folder = "/".join(filter(None, (tree.folder(split), name, tree.below_class[split])))
            paths = f"{split}/{name}", f"{split}/{same}"
            groups.append(_Group(split, utf8(same), folder, *paths, found.files[name]))
    return groups, ignored


def _alike(name: str, train: Mapping[str, str]) -> str:
    """The class folder in train/ whose name looks the same; else `name`."""
    return train.get(same_to_the_eye(name), name)


def _split_by_chance(
    root: Path, fraction: float, seed: int, known: Mapping[str, SplitName]
) -> tuple[list[_Group], list[Ignored]]:
    """Images of class folders, a fraction of each class for validation."""
    found = list_class_folders(root, flat=True)
    splits = [name for name in found.files if name.lower() in SPLIT_NAMES]
    if splits and (len(splits) > 1 or len(splits) == len(found.files)):
        raise DataError(
            f"{root} holds {several(splits)}, which are no classes; give the folder that holds the class folders, "
            f"e.g. {root / splits[-1]}, or leave --val-fraction away where train/ and val/ hold the same classes"
        )
    check_class_folders(found)
    if lonely := [name for name, files in found.files.items() if len(files) == 1]:
        others = f", and so have {len(lonely) - 1:,} other classes" if len(lonely) > 1 else ""
        raise DataError(
            f"{root}: {shown(lonely[0])} has 1 image{others}; a class needs 2 to be split, one of them to validate; "
            "add some or remove the folder"
        )
    groups = []
    for name, class_id in _ids(found).items():
        files = found.files[name]
        before = {file: known[f"{name}/{file}"] for file in files if f"{name}/{file}" in known}
        val = _val_names(files, fraction, seed=seed, class_id=class_id, known=before)
        for split in SPLITS:
            some = [file for file in files if (file in val) == (split == "val")]
            groups.append(_Group(split, class_id, name, name, f"{split}/{name}", some))
    return groups, found.ignored


def _ids(found: ClassFolders) -> dict[str, str]:
    """Class by class folder. Two folders that look the same to the eye would be two classes of one name."""
    by_look: dict[str, str] = {}
    for name in found.files:
        other = by_look.setdefault(same_to_the_eye(name), name)
        if other != name:
            raise DataError(
                f"{found.root} has two folders whose names look the same, {other!a} and {name!a}; "
                "move the images of one to the other"
            )
    return {name: utf8(name) for name in found.files}


def _image(root: Path, group: _Group, file: str, in_place: bool) -> SourceImage | Skipped:
    """One of the user's files. A FIFO or a device would hang whoever reads it."""
    path = f"{group.folder}/{file}"
    target = f"{group.here if in_place else group.target}/{file}"
    if has_control(path):
        return Skipped(shown(target), "has control characters in its name")
    try:
        status = (root / path).stat()
    except OSError as error:
        return Skipped(target, f"cannot be read: {error.strerror}")
    if not stat.S_ISREG(status.st_mode):
        return Skipped(target, "is not a regular file")
    if status.st_size > MAX_BYTES:
        return Skipped(target, f"has {status.st_size:,} bytes; too many for an image")
    return SourceImage(
        group.split, group.class_id, target, status.st_size, partial(read_regular, root / path)
    )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _val_names(
    names: Sequence[str], fraction: float, *, seed: int, class_id: str, known: Mapping[str, SplitName]
) -> set[str]:
    """The images of a class that validate. Other classes have no influence on them.

    Images that are `known` stay where they are: what a network has been trained on must not validate it later.
    """
    count = min(max(1, round(fraction * len(names))), len(names) - 1)
    if not set(SPLITS) <= set(known.values()):
        known = {}
    val = {name for name in names if known.get(name) == "val"}
    new = [name for name in names if name not in known]
    rng = np.random.default_rng([seed, *class_id.encode("utf-8", "surrogateescape")])
    return val | {new[index] for index in rng.permutation(len(new))[: max(0, count - len(val))]}


def _known_splits(out: Path, options: Mapping[str, Any], *, in_place: bool) -> dict[str, SplitName]:
    """Splits of the files that are in the data set already, by class folder and path in it."""
    metadata = read_metadata(out)
    if metadata is None or not options.items() <= metadata.get("options", {}).items():
        return {}
    dataset = open_dataset(out, with_images=False)
    known = {image.path: image.split for image in image_records(dataset)}
    if in_place:
        return known
    # In a copy, files that could not be used have their split in their path as well.
    known |= {
        one.path: split for one in dataset.skipped for split in SPLITS if one.path.startswith(f"{split}/")
    }
    return {path.partition("/")[2]: split for path, split in known.items()}


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
    parser.add_argument(
        "--manifest",
        type=Path,
        metavar="DIR",
        help="folder for the manifest alone; the images stay where they are, and nothing is written there",
    )
    parser.add_argument("--name", default="", help="name of the data set (default: that of the folder)")
    parser.add_argument(
        "--seed", type=_seed, default=0, help="seed of the choice of validation images (default: 0)"
    )


def _seed(text: str) -> int:
    """A whole number of at least 0, which is all that NumPy takes."""
    if not (text.isascii() and text.isdigit()):
        raise ArgumentTypeError(f"{text!r} is not a whole number of at least 0")
    return int(text)


def _identity(options: Namespace) -> Identity:
    return options.name or words(options.folder.resolve().name), _options(options.val_fraction, options.seed)


def _source(options: Namespace, out: Path, fetch: Fetch) -> Source:
    return folder(
        options.folder,
        out=out,
        in_place=True if options.manifest else None,
        val_fraction=options.val_fraction,
        seed=options.seed,
        name=options.name,
    )


def _recognise(look: Look) -> Found | None:
    if tree := find_tree(look):
        return Found(str(tree), [look.address])
    folders = look.folders()
    if any(name.lower() in SPLIT_NAMES for name in folders) or look.name in SPLITS or data_sets_below(look):
        raise DataError(no_splits(look))
    if folders and any(map(has_image_ending, look.files(folders[0]))):
        return Found(f"{len(folders):,} class folders and no val/", [look.address])
    return None


FORM = Form(
    name="folder",
    help="your own folders, one for each class",
    example="folder /data/birds --val-fraction 0.1",
    add_arguments=_add_arguments,
    identity=_identity,
    source=_source,
    in_place=True,
    recognise=_recognise,
    layout="a folder with train/CLASS/… and val/CLASS/…; ImageNet's val/ may be flat, and Kaggle's folders are known",
)
