"""What lies at a path or URL, looked at no further than asked: names in folders, an archive's first members."""

from __future__ import annotations

import os
from functools import cached_property
from itertools import islice
from pathlib import Path

from trainer.dataset._archives import members
from trainer.dataset._listing import list_folder
from trainer.dataset._names import is_system_file, is_system_folder, is_system_member

MEMBERS = 20  # of an archive that are looked at
MOST_ARCHIVES = 20  # of a folder that are opened
ARCHIVE_ENDINGS = (".tar", ".tgz", ".zip", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst", ".tbz2", ".txz")


class Look:
    """A path or URL that forms are asked about. What has been read once is not read again."""

    def __init__(self, address: str) -> None:
        """Nothing is read yet. `address`: a path, URL, magnet link or torrent."""
        self.address = address
        self.is_local = "://" not in address and not address.startswith("magnet:")
        self.path = Path(address)
        self._listed: dict[str, list[tuple[str, bool]]] = {}

    @property
    def name(self) -> str:
        """Name of the file or folder."""
        if not self.is_local:
            return self.address.partition("?")[0].rstrip("/").rpartition("/")[2]
        return Path(os.path.abspath(self.path)).name

    @cached_property
    def is_folder(self) -> bool:
        """Whether it is a folder on this machine."""
        return self.is_local and os.path.isdir(self.path)

    @cached_property
    def is_file(self) -> bool:
        """Whether it is a regular file on this machine."""
        return self.is_local and os.path.isfile(self.path)

    def files(self, below: str = "") -> list[str]:
        """Names of the files in the folder, or in a folder below it, sorted; none if there is no such folder.

        Raises: DataError if the folder cannot be listed.
        """
        return [name for name, is_folder in self._list(below) if not is_folder and not is_system_file(name)]

    def folders(self, below: str = "") -> list[str]:
        """Names of the folders in it, likewise."""
        return [name for name, is_folder in self._list(below) if is_folder and not is_system_folder(name)]

    @cached_property
    def members(self) -> list[str]:
        """Names of the first members of an archive on this machine; none if it is no file.

        Raises: DataError if it is no archive that can be read.
        """
        if not self.is_file:
            return []
        first = islice(members(self.path), MEMBERS)
        return [member.name for member in first if not is_system_member(member.name)]

    @cached_property
    def archives(self) -> list[Look]:
        """The archives in the folder, by the endings of their names."""
        names = self.files() if self.is_folder else []
        return [Look(os.path.join(self.address, one)) for one in names if one.endswith(ARCHIVE_ENDINGS)]

    def _list(self, below: str) -> list[tuple[str, bool]]:
        if below not in self._listed:
            folder = self.path / below
            self._listed[below] = list_folder(folder) if self.is_local and os.path.isdir(folder) else []
        return self._listed[below]
