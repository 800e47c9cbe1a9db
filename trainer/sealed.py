"""Folders whose files are listed in SHA256SUMS, as `sha256sum --check` reads it. Needs no library.

A bundle and a registered version are such folders, and `check_seal` is the one place where they are compared with
their listing. A checkpoint is a single file with its SHA-256 in its name (`trainer.checkpoint.read_verified`).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from trainer.errors import TrainerError

SUMS = "SHA256SUMS"
_LINE = re.compile(r"([0-9a-f]{64})  (.+)")


class SealBroken(TrainerError):
    """A folder is not what its listing says: `what` is wrong, as half a sentence."""


def seal(folder: Path) -> str:
    """List every file in `folder` with its SHA-256 in SHA256SUMS; return the SHA-256 of that."""
    names = sorted(_names(folder) - {SUMS})
    text = "".join(f"{sha256(folder / name)}  {name}\n" for name in names)
    (folder / SUMS).write_bytes(text.encode())
    return hashlib.sha256(text.encode()).hexdigest()


def listed(folder: Path) -> dict[str, str]:
    """SHA-256 by file, as the listing in `folder` has them. Raises: SealBroken if it is none."""
    return _parsed(_read(folder))


def check_seal(
    folder: Path,
    *,
    required: Sequence[str],
    digest: str | None = None,
    ignored: Sequence[str] | None = (),
) -> None:
    """See that `folder` holds the files of its listing, each as it was when it was listed, and no others.

    Args:
        folder: a folder that `seal` has sealed.
        required: files without which it is of no use, so that the listing must have them.
        digest: SHA-256 of the listing; None believes the one that lies there.
        ignored: files that are there and not listed; None: any, as whoever reads the folder reads listed ones only.

    Raises: SealBroken.
    """
    listing = _read(folder)
    if digest is not None and hashlib.sha256(listing).hexdigest() != digest:
        raise SealBroken(f"{SUMS} is not what it was")
    sums = _parsed(listing)
    there = _names(folder) - {SUMS, *(ignored or ())}
    for name in (*required, *sums):
        if name not in sums or name not in there:
            raise SealBroken(f"{name} is missing")
        if (folder / name).is_symlink() or not (folder / name).is_file():
            raise SealBroken(f"{name} is no plain file")
        if sha256(folder / name) != sums[name]:
            raise SealBroken(f"{name} is not what {SUMS} says")
    if ignored is not None and (unlisted := sorted(there - sums.keys())):
        raise SealBroken(f"{', '.join(unlisted[:3])} is not in {SUMS}")


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def safe_names(names: Sequence[str]) -> list[str]:
    """Names for files that users called `names`: a number and the ending.

    What a user calls a photo may be no name elsewhere: as a part of a URL, in a listing, on another file system.
    """
    endings = [re.fullmatch(r".*(\.[A-Za-z0-9]{1,8})", name, re.DOTALL) for name in names]
    return [f"{index}{ending[1].lower() if ending else ''}" for index, ending in enumerate(endings)]


def valid_preprocess(content: object) -> dict[str, Any]:
    """`content` if it says how a photo becomes the network's input: val_resize, val_size, mean, std.

    Raises: ValueError that says what is wrong.
    """
    if not isinstance(content, Mapping):
        raise ValueError("the preprocessing is no table")
    for name in ("val_resize", "val_size"):
        if type(size := content.get(name)) is not int or not 1 <= size <= 4096:
            raise ValueError(f"{name} is no number of pixels")
    for name in ("mean", "std"):
        numbers = content.get(name)
        if not (isinstance(numbers, Sequence) and len(numbers) == 3 and all(map(_is_number, numbers))):
            raise ValueError(f"{name} is not three numbers")
    if content["val_size"] > content["val_resize"] or 0 in content["std"]:
        raise ValueError("val_size is larger than val_resize, or std is 0")
    return dict(content)


def valid_names(content: object, what: str) -> tuple[str, ...]:
    """`content` if it is a list of names, at least one. Raises: ValueError."""
    if not isinstance(content, Sequence) or isinstance(content, str) or not content:
        raise ValueError(f"{what} is no list of names")
    if not all(isinstance(name, str) for name in content):
        raise ValueError(f"{what} is no list of names")
    return tuple(content)


def _read(folder: Path) -> bytes:
    try:
        if (folder / SUMS).is_file():  # the opening of a pipe would wait for ever
            return (folder / SUMS).read_bytes()
    except OSError:
        pass
    raise SealBroken(f"there is no readable {SUMS}")


def _parsed(listing: bytes) -> dict[str, str]:
    lines = [_LINE.fullmatch(line) for line in listing.decode(errors="replace").split("\n")[:-1]]
    sums = {line[2]: line[1] for line in lines if line}
    if not sums or len(sums) != len(lines):
        raise SealBroken(f"{SUMS} is no listing of files")
    return sums


def _names(folder: Path) -> set[str]:
    """The files below `folder`, links not followed."""
    return {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.is_symlink() or not path.is_dir()
    }


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e6
