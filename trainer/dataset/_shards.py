"""The shards of ImageNet as they are published on the Hugging Face Hub: known by their names, and none missing."""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal, NamedTuple, cast

from trainer.dataset._listing import list_folder
from trainer.dataset._manifest import SPLITS, SplitName
from trainer.dataset._names import several, shown
from trainer.errors import DataError

Layout = Literal["parquet", "tar", "tar.gz"]  # the second is WebDataset's
# How many shards a series has that does not say so in its names.
PUBLISHED = {"train_images_.tar.gz": 5, "imagenet1k-train-.tar": 1024, "imagenet1k-validation-.tar": 64}

# train-00000-of-00294.parquet and imagenet1k-train-0000.tar, whatever stands before and behind (a copy's "(1)"); or
# train/0000.parquet, as the Hub converts data sets by itself; train_images_0.tar.gz and val_images.tar.gz.
_SHARD = re.compile(
    r"(?:.*[^A-Za-z0-9])?(train|validation|val|test)[-_/](\d+)(?:-of-(\d+))?[^/]*\.(parquet|tar)"
)
_TAR_GZ = re.compile(r"(?:.*[^A-Za-z0-9])?(train|val|test)_images(?:_(\d+))?[^/]*\.(tar\.gz)")
_NOT_SHARDS = ("blobs", "refs", ".git", ".cache", ".huggingface", ".no_exist", "trees")  # folders beside them


class Shard(NamedTuple):
    """A published file with a part of the images."""

    name: str  # path below its folder or repository
    size: int  # bytes
    split: SplitName
    number: int
    of: int | None  # how many there are, if the name says so
    layout: Layout


def is_shard(path: str) -> bool:
    """Whether a file below a folder or repository is called as a shard of ImageNet is."""
    return (_TAR_GZ.fullmatch(path) or _SHARD.fullmatch(path)) is not None


def sort_shards(
    files: Mapping[str, int], origin: str, *, partial: bool = False
) -> tuple[list[Shard], list[str]]:
    """The shards among some files, training first, and the names of the other files.

    Args:
        files: bytes by path below the folder or repository.
        origin: the folder or repository, for messages.
        partial: whether shards may be missing.

    Raises: DataError if a split has no shard, shards are missing, or there are two layouts or sets of them.
    """
    shards: list[Shard] = []
    others: list[str] = []
    for name, size in sorted(files.items()):
        found = _TAR_GZ.fullmatch(name) or _SHARD.fullmatch(name)
        if found is None or found[1] == "test":
            others.append(name)
            continue
        of = int(found[3]) if found.re is _SHARD and found[3] else None
        layout = cast(Layout, found[found.re.groups])
        split: SplitName = "train" if found[1] == "train" else "val"
        shards.append(Shard(name, size, split, int(found[2] or 0), of, layout))
    if not shards:
        raise DataError(
            f"{origin} has no shard of ImageNet, such as train-00000-of-00294.parquet, imagenet1k-train-0000.tar or "
            f"train_images_0.tar.gz; it has {several(others) or 'no files'}"
        )
    if len(layouts := {one.layout for one in shards}) > 1:
        raise DataError(
            f"{origin} has ImageNet in {len(layouts)} layouts ({', '.join(sorted(layouts))}); give the folder of one"
        )
    for split in SPLITS:
        _check([one for one in shards if one.split == split], split, origin, partial=partial)
    shards.sort(key=lambda one: (SPLITS.index(one.split), one.number, one.name))
    return shards, others


def _check(shards: list[Shard], split: SplitName, origin: str, *, partial: bool) -> None:
    if not shards:
        raise DataError(f"{origin} has no shard for {split}; both train and validation are needed")
    said = {one.of for one in shards}
    if len(said) > 1:
        examples = ", ".join(shown(next(one.name for one in shards if one.of == of)) for of in said)
        raise DataError(
            f"{origin} has shards of more than one set for {split} ({examples}); keep those of one"
        )
    numbers = {one.number for one in shards}
    expected = said.pop() or PUBLISHED.get(_series(shards[0])) or max(numbers) + 1
    if (absent := sorted(set(range(expected)) - numbers)) and not partial:
        names = [_with_number(shards[0].name, number) for number in absent]
        raise DataError(
            f"{origin} lacks {len(absent):,} of the {expected:,} shards for {split}: {several(names)}; download what "
            "is missing, or say with --partial that a part of ImageNet is meant"
        )


def _series(shard: Shard) -> str:
    """The file's name without its numbers."""
    return re.sub(r"(?<=[-_])\d+", "", os.path.basename(shard.name))


def _with_number(name: str, number: int) -> str:
    """The name that the shard of that number has beside the shard `name`."""
    found = _SHARD.fullmatch(name) or _TAR_GZ.fullmatch(name)
    assert found is not None
    start, end = found.span(2)
    return f"{name[:start]}{number:0{end - start}d}{name[end:]}"


def list_shard_folder(folder: Path, revision: str | None = None) -> tuple[Path, dict[str, int]]:
    """The folder with a data set's files, and their bytes by path below it, however deep they lie.

    Args:
        folder: a plain folder, a clone, or the Hub's cache: itself, or its folder of one repository.
        revision: which revision of such a cache: a commit, branch or tag (default: main, or the only one).

    Raises: DataError if the cache has not that revision, a link leads nowhere, or a folder cannot be listed.
    """
    folder = _snapshot(folder, revision)
    files: dict[str, int] = {}
    seen: set[tuple[int, int]] = set()  # links may lead back
    waiting = [""]
    while waiting:
        below = waiting.pop()
        status = os.stat(folder / below)
        if (identity := (status.st_dev, status.st_ino)) in seen:
            continue
        seen.add(identity)
        for name, is_folder in list_folder(folder / below):
            path = f"{below}/{name}" if below else name
            if not is_folder:
                files[path] = _size(folder / path)
            elif name not in _NOT_SHARDS:
                waiting.append(path)
    return folder, files


def _snapshot(folder: Path, revision: str | None) -> Path:
    """The folder of one revision, if `folder` is the Hub's cache: datasets--OWNER--NAME/snapshots/COMMIT."""
    if not (folder / "snapshots").is_dir():
        repositories = [path for path in folder.glob("datasets--*") if (path / "snapshots").is_dir()]
        if len(repositories) > 1:
            raise DataError(
                f"{folder} holds {several([path.name for path in repositories])}; give the folder of one"
            )
        if not repositories:
            return folder
        folder = repositories[0]
    commits = {path.name: path for path in sorted((folder / "snapshots").iterdir()) if path.is_dir()}
    reference = folder / "refs" / (revision or "main")
    wanted = reference.read_text().strip() if reference.is_file() else revision
    if wanted in commits:
        return commits[wanted]
    if revision is None and len(commits) == 1:
        return next(iter(commits.values()))
    raise DataError(
        f"{folder} holds the revisions {_listed(commits)}, and not {revision or 'main'}; name one with --revision"
    )


def _listed(names: Collection[str]) -> str:
    return several(names) or "(none)"


def _size(path: Path) -> int:
    """Raises: DataError if it is a link to nowhere."""
    try:
        return path.stat().st_size
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); download it again") from None
