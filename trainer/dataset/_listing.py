"""Class folders on disk, listed as torchvision.datasets.ImageFolder sees them: with all folders below, links followed.

Each folder is read once for a class, so links that lead back or across cannot make the walk endless, or longer
than the folders there are.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from trainer.dataset._ignored import ENDING, OUTSIDE, QUARANTINED, REPEATED, SYSTEM, Ignored
from trainer.dataset._manifest import DATASET, INDEX, QUARANTINE
from trainer.dataset._names import has_image_ending, is_system_file, is_system_folder
from trainer.errors import DataError


@dataclass(frozen=True)
class ClassFolders:
    """The class folders in a folder."""

    root: Path
    files: dict[str, list[str]]  # files with an image's ending, by class folder: paths below it, sorted
    ignored: list[Ignored] = field(default_factory=list)  # paths below `root`

    def ignored_in(self, class_folder: str) -> Iterator[Ignored]:
        """Ignored files of one class folder."""
        return (one for one in self.ignored if one.path.startswith(f"{class_folder}/"))


def list_class_folders(root: Path, *, flat: bool = False) -> ClassFolders:
    """List the class folders in `root` and all files in them.

    Args:
        root: the folder that holds them.
        flat: whether `root` is a data set's folder itself, which may hold a manifest and a quarantine too.

    Raises: DataError if a folder cannot be listed.
    """
    found = ClassFolders(root, {})
    for name, is_folder in list_folder(root):
        if flat and not is_folder and (name == DATASET or INDEX.fullmatch(name)):
            continue
        if flat and is_folder and name == QUARANTINE:
            found.ignored.append(Ignored(name, QUARANTINED))
        elif not is_folder:
            reason = SYSTEM if is_system_file(name) else OUTSIDE
            found.ignored.append(Ignored(name, reason))
        elif is_system_folder(name):
            found.ignored.append(Ignored(name, SYSTEM))
        else:
            images: list[str] = []
            for path, reason in _walk(root / name):
                if reason:
                    found.ignored.append(Ignored(f"{name}/{path}", reason))
                else:
                    images.append(path)
            found.files[name] = sorted(images)
    return found


def list_flat_folder(folder: Path) -> ClassFolders:
    """List the images in a folder that holds those of all classes, as if "" was their class folder.

    Raises: DataError if it cannot be listed.
    """
    found = ClassFolders(folder, {"": []})
    for name, is_folder in list_folder(folder):
        if is_folder or is_system_file(name) or not has_image_ending(name):
            reason = OUTSIDE if is_folder else SYSTEM if is_system_file(name) else ENDING
            found.ignored.append(Ignored(name, reason))
        else:
            found.files[""].append(name)
    return found


def _walk(top: Path) -> Iterator[tuple[str, str]]:
    """Paths below a class folder, each with the reason why it is ignored, "" for an image."""
    seen: set[tuple[int, int]] = set()
    waiting = [""]
    while waiting:
        below = waiting.pop()
        if (identity := _identity(top / below)) in seen:
            yield below, REPEATED
            continue
        seen.add(identity)
        folders = []
        for name, is_folder in list_folder(top / below):
            path = f"{below}/{name}" if below else name
            if is_folder and not is_system_folder(name):
                folders.append(path)
            elif is_folder or is_system_file(name):
                yield path, SYSTEM
            else:
                yield path, "" if has_image_ending(name) else ENDING
        waiting += reversed(folders)


def list_folder(folder: Path) -> list[tuple[str, bool]]:
    """Names in a folder, sorted, and whether each is a folder or a link to one."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry.name, _is_folder(entry)) for entry in entries)
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror}") from None


def _identity(folder: Path) -> tuple[int, int]:
    try:
        status = os.stat(folder)
    except OSError as error:
        raise DataError(f"{folder} cannot be listed: {error.strerror}") from None
    return status.st_dev, status.st_ino


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself, or to where one may not look
        return False
