"""What is in a compressed file, read from its beginning to its end: gzip, bzip2, xz and zstd, also several in a row."""

from __future__ import annotations

import bz2
import gzip
import lzma
import sys
from collections.abc import Callable
from typing import IO, Protocol, cast

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

READ_SIZE = 2**18  # bytes of the compressed file at a time
XZ_MEMORY = 2**28  # bytes; xz -9 needs a quarter of it

DAMAGE = (lzma.LZMAError, zstd.ZstdError)  # beside EOFError, OSError and ValueError


class Readable(Protocol):
    """A file to be read."""

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes, none at the end."""


class _Decompressor(Protocol):
    """What bz2, lzma and zstd have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = ...) -> bytes: ...


class Unpacked:
    """The content of a compressed file, with a position that only moves forwards."""

    def __init__(self, file: Readable, make: Callable[[], _Decompressor]) -> None:
        self._file, self._make = file, make
        self._decompressor = make()
        self._position = 0

    def read(self, size: int, /) -> bytes:
        """Up to `size` bytes, fewer only at the end.

        Raises: EOFError if the file was cut off, an error of `DAMAGE`, OSError or ValueError if it is damaged.
        """
        parts, left = [], size
        while left > 0:
            data = b""
            if self._decompressor.eof:
                # Another stream may follow, in xz after zeros that fill a block of four bytes.
                data = self._decompressor.unused_data.lstrip(b"\0") or self._file.read(READ_SIZE).lstrip(
                    b"\0"
                )
                if not data:
                    break
                self._decompressor = self._make()
            elif self._decompressor.needs_input and not (data := self._file.read(READ_SIZE)):
                raise EOFError("it ends early")
            parts.append(self._decompressor.decompress(data, left))
            left -= len(parts[-1])
        self._position += size - left
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def seek(self, offset: int, /) -> int:
        """Read on until `offset`."""
        while self._position < offset and self.read(min(offset - self._position, READ_SIZE)):
            pass
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position


def unpacked(file: Readable, start: bytes) -> Unpacked | gzip.GzipFile | None:
    """What is in `file` if that is compressed, by the bytes that it begins with."""
    if start.startswith(b"\x1f\x8b"):
        return gzip.GzipFile(fileobj=cast(IO[bytes], file), mode="rb")
    if start.startswith(b"BZh"):
        return Unpacked(file, bz2.BZ2Decompressor)
    if start.startswith(b"\xfd7zXZ\0"):
        return Unpacked(file, lambda: lzma.LZMADecompressor(memlimit=XZ_MEMORY))
    if start.startswith(b"\x28\xb5\x2f\xfd"):
        return Unpacked(file, zstd.ZstdDecompressor)
    return None
