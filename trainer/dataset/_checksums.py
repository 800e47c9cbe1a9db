"""MD5 of archives, computed while they are read anyway."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Mapping
from pathlib import Path

from trainer.errors import DataError

READ_SIZE = 2**20  # bytes


class Checksums:
    """MD5 of the archives, in a thread beside the preparation: the page cache serves both, the disk reads once."""

    def __init__(self, expected: Mapping[Path, str | None]) -> None:
        self._expected = {path: md5 for path, md5 in expected.items() if md5}
        self._computed: dict[Path, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._compute, name="md5", daemon=True)
        self._thread.start()

    def _compute(self) -> None:
        for path in self._expected:
            digest = hashlib.md5(usedforsecurity=False)
            with path.open("rb") as file:
                while (data := file.read(READ_SIZE)) and not self._stop.is_set():
                    digest.update(data)
            self._computed[path] = digest.hexdigest()

    def wait(self) -> dict[Path, str]:
        """MD5 by archive, for those with an expected one.

        Raises: DataError if one is not the expected one.
        """
        self._thread.join()
        for path, md5 in self._expected.items():
            if self._computed.get(path) != md5:
                raise DataError(
                    f"{path} is not the published file: its MD5 is {self._computed.get(path)}, not {md5}; "
                    "download it again, or accept another archive with --no-md5"
                )
        return self._computed

    def stop(self) -> None:
        """End the thread early."""
        self._stop.set()
