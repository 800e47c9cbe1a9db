"""Whether a disk has room, asked before hours are spent."""

from __future__ import annotations

import shutil
from pathlib import Path

from trainer.errors import DataError


def require_space(folder: Path, needed: int, what: str, cure: str) -> None:
    """Check that the disk of a folder, which need not exist yet, has room.

    Args:
        folder: where the bytes will go.
        needed: bytes beyond what is there.
        what: subject and verb of the sentence, such as "the images need".
        cure: what to do beside freeing some.

    Raises: DataError if it has not.
    """
    there = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    free = shutil.disk_usage(there).free
    if needed > free:
        raise DataError(
            f"{what} {needed / 1e9:,.1f} GB more, and the disk of {folder} has {free / 1e9:,.1f} GB free; "
            f"free some, {cure}"
        )
