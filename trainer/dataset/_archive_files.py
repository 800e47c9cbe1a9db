"""An archive's bytes: ranges of a file that several threads may read, and reads that are bounded."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Protocol

from trainer.dataset._remote import RemoteFile
from trainer.errors import DataError

MAX_MEMBER = 64 * 2**20  # bytes; ImageNet's largest image has 15 MB
READ_AHEAD = 2**20  # bytes that a writer thread reads at once

Data = bytes | memoryview
ArchiveFile = Path | RemoteFile  # an archive on this machine, or one that is read in place


def archive_size(archive: ArchiveFile) -> int:
    """Bytes of an archive."""
    return archive.size if isinstance(archive, RemoteFile) else archive.stat().st_size


class Seekable(Protocol):
    """A file with a position, which some can only move forwards."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes from the position, which moves."""

    def seek(self, offset: int, /) -> int:
        """Set the position."""

    def tell(self) -> int:
        """The position."""


class OpenFile:
    """A file that stays open as long as a member may still be read."""

    def __init__(self, path: Path) -> None:
        self.number = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._ahead = threading.local()

    def read_on(self, start: int, size: int) -> Data:
        """`size` bytes from `start`, with read-ahead for the next call of the same thread.

        Each system call makes a thread wait for the GIL again, so there are few of them.
        """
        begin, block = getattr(self._ahead, "block", (0, memoryview(b"")))
        if not begin <= start <= start + size <= begin + len(block):
            begin, block = start, memoryview(os.pread(self.number, max(size, READ_AHEAD), start))
            self._ahead.block = begin, block
        return block[start - begin : start - begin + size]

    def __del__(self) -> None:
        if hasattr(self, "number"):
            os.close(self.number)


class Region:
    """A range of a file, with a position of its own."""

    def __init__(self, file: OpenFile, start: int, size: int) -> None:
        self._file, self._start, self.size = file, start, size
        self._position = 0

    def region(self, start: int, size: int) -> Region:
        """A range within this one."""
        return Region(self._file, self._start + start, size)

    def at(self, start: int, size: int) -> bytes:
        """`size` bytes from `start`, fewer where the range or the file ends. Any thread may call it."""
        size = min(size, self.size - start)
        return os.pread(self._file.number, size, self._start + start) if size > 0 else b""

    def all(self, size: int) -> Data:
        """The first `size` bytes."""
        return self._file.read_on(self._start, size)

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes from the position, which moves."""
        data = self.at(self._position, size)
        self._position += len(data)
        return data

    def seek(self, offset: int, /) -> int:
        """Set the position."""
        self._position = offset
        return offset

    def tell(self) -> int:
        """The position."""
        return self._position


class ReadOnce(Region):
    """A file that one thread reads from its beginning to its end: each byte is read once, with read-ahead."""

    def at(self, start: int, size: int) -> bytes:
        """`size` bytes from `start`, fewer where the file ends."""
        size = min(size, self.size - start)
        return bytes(self._file.read_on(start, size)) if size > 0 else b""


class Inner:
    """A range of a file that has one position for all who read it: a member that is an archive itself."""

    def __init__(self, file: CheckedFile, start: int, size: int) -> None:
        self._file, self._start, self._size = file, start, size
        self._position = 0

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes from the position, which moves."""
        self._file.seek(self._start + self._position)
        data = self._file.read(min(size, self._size - self._position))
        self._position += len(data)
        return data

    def seek(self, offset: int, /) -> int:
        """Set the position."""
        self._position = min(offset, self._size)
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position


class CheckedFile:
    """A file for tarfile, in which no read is larger than an image and no archive larger than allowed.

    tarfile reads extended headers in one go, whatever size they claim.
    """

    def __init__(self, file: Seekable, path: str, limit: int) -> None:
        self._file, self._path, self._limit = file, path, limit
        self._unread = b""

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes from the position, which moves."""
        if not 0 <= size <= MAX_MEMBER:
            raise DataError(f"{self._path} has a header of {size:,} bytes; this is not the published archive")
        data, self._unread = self._unread[:size], self._unread[size:]
        data += (self._file.read(size - len(data)) or b"") if len(data) < size else b""
        self._check(self.tell())
        return data

    def unread(self, data: bytes) -> None:
        """Put back the bytes that were just read: a compressed file cannot be sought back."""
        self._unread = data + self._unread

    def seek(self, offset: int) -> int:
        """Set the position."""
        self._check(offset)
        if offset != self.tell():
            self._unread = b""
            self._file.seek(offset)
        return offset

    def tell(self) -> int:
        """The position."""
        return self._file.tell() - len(self._unread)

    def _check(self, offset: int) -> None:
        if not 0 <= offset <= self._limit:
            raise DataError(
                f"{self._path} ends early or is larger inside than its {self._limit:,} bytes allow; download it again"
            )
