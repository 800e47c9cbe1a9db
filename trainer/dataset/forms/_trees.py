"""Published data sets as they lie unpacked on people's disks: where in a folder, and what labels a flat val/ has.

Sources of the layouts: Kaggle's imagenet-object-localization-challenge.zip, torchvision.datasets.ImageNet, Stanford's
tiny-imagenet-200.zip.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal, NamedTuple

from trainer.dataset._ignored import OTHER_MEMBER, Ignored
from trainer.dataset._listing import ClassFolders, list_class_folders, list_flat_folder
from trainer.dataset._look import Look
from trainer.dataset._manifest import QUARANTINE, SPLITS, SplitName
from trainer.dataset._names import shown
from trainer.dataset.forms._imagenet_labels import check_solution, val_wnids
from trainer.errors import DataError
from trainer.files import read_regular

DEPTH = 4  # folders around a data set that hold nothing else
KAGGLE = ("ILSVRC/Data/CLS-LOC", "Data/CLS-LOC", "CLS-LOC")  # where train/ and val/ are in Kaggle's archive
SOLUTION = "LOC_val_solution.csv"
ANNOTATIONS = "val_annotations.txt"

# Names of the two folders: the usual ones, and those of the tars that somebody unpacked side by side.
SPLIT_FOLDERS: tuple[Mapping[SplitName, str], ...] = (
    {"train": "train", "val": "val"},
    {"train": "ILSVRC2012_img_train", "val": "ILSVRC2012_img_val"},
)

_VAL_NAME = re.compile(r"(ILSVRC2012_val_\d{8})\.\w+")


class Tree(NamedTuple):
    """A data set unpacked in a folder."""

    kind: Literal["imagenet", "tiny-imagenet", ""]  # "": class folders, whosever
    top: str  # the folder below that holds those of the splits; "" for the folder itself
    names: Mapping[SplitName, str]  # of those, one of SPLIT_FOLDERS
    classes: int  # class folders in train/
    flat_val: bool  # whether val/ holds the images of all classes in one folder
    below_class: Mapping[
        SplitName, str
    ]  # folder below each class folder that holds its images: "images" or ""

    def folder(self, split: SplitName) -> str:
        """Folder of a split: of its class folders, or of the images of a flat val/."""
        images = "images" if split == "val" and self.flat_val and self.kind == "tiny-imagenet" else ""
        return "/".join(filter(None, (self.top, self.names[split], images)))

    def patterns(self) -> dict[str, str]:
        """Where the images of the splits are, for `Places`; nothing if at their paths in the manifest."""
        found = {}
        for split in SPLITS:
            flat = split == "val" and self.flat_val
            parts = [self.folder(split), "" if flat else "{class}", self.below_class[split], "{name}"]
            found[split] = "/".join(filter(None, parts))
        return {split: one for split, one in found.items() if one != f"{split}/{{class}}/{{name}}"}

    def __str__(self) -> str:
        """What it is, for a sentence."""
        name = {"imagenet": "ImageNet", "tiny-imagenet": "Tiny ImageNet", "": "class folders"}[self.kind]
        train, val = (shown(f"{self.top}/{self.names[split]}".lstrip("/")) for split in SPLITS)
        flat = ", which is flat and has known labels" if self.flat_val else ""
        return f"{name}, {self.classes:,} classes, in {train}/ and {val}/{flat}"


def find_tree(look: Look) -> Tree | None:
    """The unpacked data set in a folder, or alone in folders below it; None if train/ and val/ are nowhere.

    Raises: DataError if a folder cannot be listed, or val/ is sorted into class folders in part.
    """
    if (found := _top(look)) is None:
        return None
    top, names = found
    if set("{}") & set(top):  # they have a meaning in a pattern
        raise DataError(f"{look.path / top} has braces in its name; give that folder itself, or rename it")
    train, val = (f"{top}/{names[split]}".lstrip("/") for split in SPLITS)
    classes, val_folders, val_files = look.folders(train), look.folders(val), look.files(val)
    first = classes[0] if classes else ""
    is_tiny = bool(first) and f"{first}_boxes.txt" in look.files(f"{train}/{first}")
    kind: Literal["imagenet", "tiny-imagenet", ""] = "tiny-imagenet" if is_tiny else ""
    images: dict[SplitName, str] = {"train": "images" if is_tiny else "", "val": ""}
    flat = False
    if is_tiny:
        flat = ANNOTATIONS in val_files and val_folders == ["images"]
        if not flat and val_folders and "images" in look.folders(f"{val}/{val_folders[0]}"):
            images["val"] = "images"
    elif unsorted := [name for name in val_files if _VAL_NAME.fullmatch(name)]:
        if val_folders:
            raise DataError(
                f"{look.path / val} holds {len(val_folders):,} class folders and {len(unsorted):,} images beside them, "
                f"e.g. {unsorted[0]}: they are sorted in part; finish that, or unpack the validation images again"
            )
        flat = True
    if (flat and not is_tiny) or top.endswith(KAGGLE[-1]):
        kind = "imagenet"
    return Tree(kind, top, names, len(classes), flat, images)


def _top(look: Look) -> tuple[str, Mapping[SplitName, str]] | None:
    """The folder that holds those of the splits, to which there is one way, and their names."""
    below = ""
    for _ in range(DEPTH):
        for inner in ("", *KAGGLE):
            top = "/".join(filter(None, (below, inner)))
            for names in SPLIT_FOLDERS:
                if set(names.values()) <= set(look.folders(top)):
                    return top, names
        folders = [name for name in look.folders(below) if name != QUARANTINE]
        if len(folders) != 1:
            return None
        below = "/".join(filter(None, (below, folders[0])))
    return None


def class_folders(root: Path, tree: Tree, split: SplitName) -> tuple[ClassFolders, list[Ignored]]:
    """The class folders of a split with the images in them, and what else is there.

    Those of Tiny ImageNet are without their folder images/. Paths of what is ignored are below `root`.
    """
    below, inner = tree.folder(split), tree.below_class[split]
    found = list_class_folders(root / below)
    ignored = [Ignored(f"{below}/{path}", reason) for path, reason in found.ignored]
    if not inner:
        return found, ignored
    files: dict[str, list[str]] = {}
    for name, paths in found.files.items():
        files[name] = [path.removeprefix(f"{inner}/") for path in paths if path.startswith(f"{inner}/")]
        others = [path for path in paths if not path.startswith(f"{inner}/")]
        ignored += [Ignored(f"{below}/{name}/{path}", OTHER_MEMBER) for path in others]
    return ClassFolders(found.root, files, found.ignored), ignored


def flat_val(root: Path, tree: Tree) -> tuple[dict[str, list[str]], list[Ignored]]:
    """Files of a flat val/ by class, and what else is there.

    Raises: DataError if an image has no label, or LOC_val_solution.csv says otherwise than the published labels.
    """
    folder = tree.folder("val")
    if tree.kind == "tiny-imagenet":
        wnid_of = table(root / tree.top / tree.names["val"] / ANNOTATIONS)
    else:
        wnid_of = _imagenet_wnids(root, tree)
    found = list_flat_folder(root / folder)
    files: dict[str, list[str]] = {}
    for name in found.files[""]:
        wnid = wnid_of.get(name) or wnid_of.get(name.rpartition(".")[0])
        if wnid is None:
            raise DataError(
                f"{root / folder} holds the images of all classes in one folder, and {shown(name)} has no label in "
                f"{'the list of the 50,000 validation images' if tree.kind == 'imagenet' else ANNOTATIONS}; "
                "remove it, or sort the images into one folder a class"
            )
        files.setdefault(wnid, []).append(name)
    return files, [Ignored(f"{folder}/{path}", reason) for path, reason in found.ignored]


def _imagenet_wnids(root: Path, tree: Tree) -> dict[str, str]:
    """Wnids by name without ending: people store them as .JPEG, .jpg or .png."""
    wnids = val_wnids()
    for folder in _above(root, tree.top):
        if (folder / SOLUTION).is_file():
            check_solution(str(folder / SOLUTION), read_text(folder / SOLUTION), wnids)
    return {name.rpartition(".")[0]: wnid for name, wnid in wnids.items()}


def _above(root: Path, top: str) -> Iterator[Path]:
    yield root
    for part in top.split("/") if top else ():
        root = root / part
        yield root


def table(path: Path) -> dict[str, str]:
    """The first two columns of a tab-separated file, such as Tiny ImageNet's words.txt."""
    rows = (line.split("\t") for line in read_text(path).splitlines())
    return {row[0]: row[1] for row in rows if len(row) > 1}


def read_text(path: Path) -> str:
    """A text file that came with a data set. Raises: DataError if it cannot be read or is none."""
    try:
        return read_regular(path, most=2**26).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({error}); restore it") from None
