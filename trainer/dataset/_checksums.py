"""MD5 of archives, computed while they are read anyway."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from pathlib import Path

from trainer.dataset._archive_files import ArchiveFile
from trainer.dataset._remote import RemoteFile
from trainer.errors import DataError

READ_SIZE = 2**20  # bytes


class Checksums:
    """MD5 of the archives.

    Those on this machine are read in a thread beside the preparation: the page cache serves both, the disk reads once.
    Remote ones are computed by who reads them; those that are not read in one go from the beginning to the end, as a
    zip, or when an interrupted preparation goes on, have none.
    """

    def __init__(self, expected: Mapping[ArchiveFile, str | None]) -> None:
        self._expected = {archive: md5 for archive, md5 in expected.items() if md5}
        self._computed: dict[ArchiveFile, str] = {}
        for archive in self._expected:
            if isinstance(archive, RemoteFile):
                archive.wants_md5 = True
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._compute, name="md5", daemon=True)
        self._thread.start()

    def _compute(self) -> None:
        for path in self._expected:
            if isinstance(path, Path):
                digest = hashlib.md5(usedforsecurity=False)
                with path.open("rb") as file:
                    while (data := file.read(READ_SIZE)) and not self._stop.is_set():
                        digest.update(data)
                self._computed[path] = digest.hexdigest()

    def wait(self) -> dict[ArchiveFile, str]:
        """MD5 by archive, for those with an expected one that could be computed.

        Raises: DataError if one is not the expected one.
        """
        self._thread.join()
        for archive, expected in self._expected.items():
            if isinstance(archive, RemoteFile):
                if archive.md5 is None:
                    continue
                self._computed[archive] = archive.md5
            if self._computed.get(archive) != expected:
                raise DataError(
                    f"{archive} is not the published file: its MD5 is {self._computed.get(archive)}, not {expected}; "
                    "download it again, or accept another archive with --no-md5"
                )
        return self._computed

    def stop(self) -> None:
        """End the thread early."""
        self._stop.set()
