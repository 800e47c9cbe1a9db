"""Archives, read as if somebody meant harm.

Only regular files come out, one after the other, none larger than `MAX_MEMBER`; nothing is ever written
under a name from an archive before the caller has matched it. A member is read when its `read` is called, so
several writer threads can read from a plain tar or a zip.
"""

from __future__ import annotations

import gzip
import os
import stat
import tarfile
import threading
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple, cast

from trainer.errors import DataError

MAX_MEMBER = 64 * 2**20  # bytes; ImageNet's largest image has 15 MB
MAX_EXPANSION = 20  # times; JPEGs hardly compress: an archive that grows more is a bomb
READ_AHEAD = 2**20  # bytes that a writer thread reads at once
SLACK = 2**30  # bytes allowed beyond that: small archives of labels and test data

_DAMAGE = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, RuntimeError)


Data = bytes | memoryview


class Member(NamedTuple):
    """A regular file in an archive."""

    name: str  # in the archive
    size: int  # bytes
    read: Callable[[], Data]  # its content
    lasting: bool  # whether `read` works in any thread, and after the next member was taken
    nested: Callable[[], Iterator[Member]]  # its members, if it is a plain tar in a plain tar


def members(path: Path) -> Iterator[Member]:
    """The regular files of a tar, a compressed tar or a zip, in the archive's order.

    Raises: DataError if it is none of them, damaged, cut off, a bomb, or holds links or devices.
    """
    with _naming(path):
        with path.open("rb") as file:
            is_zip = file.read(2) == b"PK"
        yield from _zip_members(path) if is_zip else _tar_file(path)


def _tar_file(path: Path) -> Iterator[Member]:
    whole = _Region(_OpenFile(path), 0, path.stat().st_size)
    if whole.at(0, 2) == b"\x1f\x8b":
        limit = MAX_EXPANSION * whole.size + SLACK
        with gzip.open(path) as unpacked:
            yield from _tar_members(path, _Checked(cast(IO[bytes], unpacked), path, limit), stored=None)
    else:
        yield from _tar_members(path, _Checked(whole, path, whole.size), stored=whole)


def _tar_members(path: Path, file: _Checked, *, stored: _Region | None) -> Iterator[Member]:
    """Walk a tar. `stored`: its bytes, if any thread can read them again; None for a compressed tar."""
    offset = 0
    while True:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
        header = _plain_header(block, offset) or _header(path, file, offset, block)
        if header is None:
            return
        name, kind, start, size = header
        if size < 0 or start <= offset:
            raise DataError(f"{path}: {name!r} has an impossible size or offset; download the archive again")
        offset = start + -(-size // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE
        if kind == tarfile.DIRTYPE:
            continue
        if kind not in (tarfile.REGTYPE, tarfile.AREGTYPE):
            raise DataError(
                f"{path}: {name!r} is no regular file but a link, a device or something else "
                "that a data set has no use for; this is not the published archive"
            )
        if stored is None:
            yield Member(name, size, _reader(file, path, name, start, size), False, _no_tar)
        else:
            inner = stored.region(start, size)
            yield Member(name, size, _region_reader(inner, path, name), True, partial(_nested, path, inner))


_Fields = tuple[str, bytes, int, int]  # name, type, offset of its data, bytes


def _plain_header(block: bytes, offset: int) -> _Fields | None:
    """The header of a regular file with nothing unusual about it, of which there are 1.3 million."""
    size, checksum = block[124:136].strip(b" \0"), block[148:156].strip(b" \0")
    if (
        block[156:157] != tarfile.REGTYPE
        or block[345:346] != b"\0"
        or not size.isdigit()
        or not checksum.isdigit()
    ):
        return None
    if sum(block) - sum(block[148:156]) + 8 * ord(" ") != int(checksum, 8):
        return None
    name = block[:100].split(b"\0", 1)[0].decode("utf-8", "surrogateescape")
    return name, tarfile.REGTYPE, offset + tarfile.BLOCKSIZE, int(size, 8)


def _header(path: Path, file: _Checked, offset: int, block: bytes) -> _Fields | None:
    """Any other header, read by tarfile; None at the archive's end, which is a block of zeros."""
    if block == bytes(tarfile.BLOCKSIZE):
        return None
    file.unread(block)
    try:
        member = tarfile.TarFile(fileobj=cast(IO[bytes], file)).next()
    except tarfile.ReadError:
        member = None
    if member is None:
        raise DataError(f"{path} ends early or is damaged after {offset:,} bytes; download it again")
    kind = tarfile.GNUTYPE_SPARSE if member.sparse is not None else member.type
    return member.name, kind, member.offset_data, member.size


def _nested(path: Path, region: _Region) -> Iterator[Member]:
    with _naming(path):
        yield from _tar_members(path, _Checked(region, path, region.size), stored=region)


def _no_tar() -> Iterator[Member]:
    raise NotImplementedError("a tar in a compressed tar: no data set is published so")


def _reader(file: _Checked, path: Path, name: str, start: int, size: int) -> Callable[[], Data]:
    def read() -> Data:
        with _naming(path):
            file.seek(start)
            return _whole(file.read(_small(path, name, size)), path, name, size)

    return read


def _region_reader(region: _Region, path: Path, name: str) -> Callable[[], Data]:
    def read() -> Data:
        with _naming(path):
            return _whole(region.all(_small(path, name, region.size)), path, name, region.size)

    return read


def _zip_members(path: Path) -> Iterator[Member]:
    with ExitStack() as opened:
        archive = zipfile.ZipFile(opened.enter_context(path.open("rb")))
        # It stays open: other threads read the members later.
        weakref.finalize(archive, opened.pop_all().close)
    limit = MAX_EXPANSION * path.stat().st_size + SLACK
    if sum(entry.file_size for entry in archive.infolist()) > limit:
        raise DataError(f"{path} would unpack to more than {limit:,} bytes: a zip bomb, not a data set")
    for entry in archive.infolist():
        mode = entry.external_attr >> 16
        if entry.is_dir():
            continue
        if stat.S_IFMT(mode) not in (0, stat.S_IFREG):
            raise DataError(
                f"{path}: {entry.filename!r} is no regular file but a link or a device; "
                "this is not the published archive"
            )
        if entry.flag_bits & 1 or entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise DataError(f"{path}: {entry.filename!r} is encrypted or packed in an unusual way; repack it")
        yield Member(entry.filename, entry.file_size, _zip_reader(archive, entry, path), True, _no_tar)


def _zip_reader(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: Path) -> Callable[[], Data]:
    def read() -> Data:
        size = _small(path, entry.filename, entry.file_size)
        with _naming(path), archive.open(entry) as file:
            return _whole(file.read(size), path, entry.filename, size)  # checks the CRC at the end

    return read


def _small(path: Path, name: str, size: int) -> int:
    if size > MAX_MEMBER:
        raise DataError(
            f"{path}: {name!r} has {size:,} bytes; no image of a data set has more than {MAX_MEMBER:,}"
        )
    return size


def _whole(data: Data, path: Path, name: str, size: int) -> Data:
    if len(data) != size:
        raise DataError(f"{path} ends early, in {name!r}; download it again")
    return data


class _naming:
    """Turns errors of the archive libraries into a sentence about the archive."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, _DAMAGE) and not isinstance(error, DataError):
            reason = str(error) or type(error).__name__
            raise DataError(
                f"{self._path} cannot be read as an archive ({reason}); download it again"
            ) from None


class _OpenFile:
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


class _Region:
    """A range of a file, with a position of its own."""

    def __init__(self, file: _OpenFile, start: int, size: int) -> None:
        self._file, self._start, self.size = file, start, size
        self._position = 0

    def region(self, start: int, size: int) -> _Region:
        """A range within this one."""
        return _Region(self._file, self._start + start, size)

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


class _Checked:
    """A file for tarfile, in which no read is larger than an image and no archive larger than allowed.

    tarfile reads extended headers in one go, whatever size they claim.
    """

    def __init__(self, file: IO[bytes] | _Region, path: Path, limit: int) -> None:
        self._file, self._path, self._limit = file, path, limit
        self._unread = b""

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= MAX_MEMBER:
            raise DataError(f"{self._path} has a header of {size:,} bytes; this is not the published archive")
        data, self._unread = self._unread[:size], self._unread[size:]
        return data + (self._file.read(size - len(data)) or b"")

    def unread(self, data: bytes) -> None:
        """Put back the bytes that were just read: seeking back in a gzip stream starts from its beginning."""
        self._unread = data

    def seek(self, offset: int) -> int:
        if not 0 <= offset <= self._limit:
            raise DataError(
                f"{self._path} ends early or is larger inside than its {self._limit:,} bytes allow; download it again"
            )
        if offset != self.tell():
            self._unread = b""
            self._file.seek(offset)
        return offset

    def tell(self) -> int:
        return self._file.tell() - len(self._unread)
