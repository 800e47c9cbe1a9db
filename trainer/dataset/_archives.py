"""Archives, read as if somebody meant harm.

Only regular files come out, one after the other, none larger than `MAX_MEMBER`; nothing is ever written
under a name from an archive before the caller has matched it. A plain tar or a zip on this machine can be read by
several threads; what is compressed or remote is read once, in its order. However the archive was packed, its names come
out in one way: without `./`, with slashes.
"""

from __future__ import annotations

import io
import stat
import struct
import tarfile
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple, cast

from trainer.dataset._archive_files import (
    MAX_MEMBER,
    READ_AHEAD,
    ArchiveFile,
    CheckedFile,
    Inner,
    OpenFile,
    ReadOnce,
    Region,
    Seekable,
)
from trainer.dataset._archive_files import Data as Data
from trainer.dataset._compressed import DAMAGE, unpacked
from trainer.dataset._remote import RemoteFile, Stream
from trainer.errors import DataError

MAX_EXPANSION = 20  # times; JPEGs hardly compress: an archive that grows more is a bomb
SLACK = 2**30  # bytes allowed beyond that: small archives of labels and test data …
SLACK_INSIDE = 2**24  # … and in an archive in an archive, of which there are many

_DAMAGE = (
    *(tarfile.TarError, zipfile.BadZipFile, zlib.error, struct.error),
    *(EOFError, OSError, ValueError, RuntimeError, LookupError),
    *DAMAGE,
)
# What is given as an archive and is none that is read here: first bytes, what it is, what to do.
_OTHERS = (
    (b"\x04\x22\x4d\x18", "is compressed with lz4", "unpack it first, with unlz4"),
    (b"\x1f\x9d", "is compressed with compress", "unpack it first, with uncompress"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7-Zip archive", "unpack it and pack the folder as a tar"),
    (b"Rar!", "is a RAR archive", "unpack it and pack the folder as a tar"),
    (b"0707", "is a cpio archive", "unpack it and pack the folder as a tar"),
    (b"PAR1", "is a Parquet file", "give one of the published archives"),
    (b"version ", "is a Git LFS pointer, not the archive itself", "fetch it with git lfs pull"),
    (b"<", "is a web page or another text", "download the archive again, logged in where that is needed"),
)


class Member(NamedTuple):
    """A regular file in an archive."""

    name: str  # in the archive
    size: int  # bytes
    read: Callable[[], Data]  # its content; before the next member is taken, if `take` is given
    nested: Callable[[], Iterator[Member]]  # its members if it is a tar, compressed or not; likewise
    take: Callable[[], Callable[[], Data]] | None = None  # makes a `read` for any thread and any time


TOP = (
    r"(?:(?!\.)[^/]+/)*"  # pattern of folders around a published archive's own, from whoever packed it again
)


def members(archive: ArchiveFile, *, at_once: bool = False) -> Iterator[Member]:
    """The regular files of a tar, a compressed tar or a zip, in the archive's order.

    Args:
        archive: on this machine or elsewhere.
        at_once: whether all members of a plain tar are read, each before the next one is taken: one thread reads the
            file from its beginning to its end.

    Raises: DataError if it is none of them, damaged, cut off, a bomb, or holds links or devices.
    """
    path = str(archive)
    with _naming(path):
        if isinstance(archive, RemoteFile):
            with archive.open() as stream:
                yield from _members(path, stream, archive.size)
                stream.finish()
        else:
            whole = (ReadOnce if at_once else Region)(OpenFile(archive), 0, archive.stat().st_size)
            yield from _members(path, whole, whole.size)


def _members(path: str, file: Region | Stream, size: int) -> Iterator[Member]:
    start = file.read(8)
    file.seek(0)
    for magic, what, cure in _OTHERS:
        if start.startswith(magic):
            raise DataError(f"{path} {what}; {cure}")
    if not start.startswith(b"PK"):
        yield from _tar(path, file, size, SLACK)
    elif isinstance(file, Region):
        yield from _zip_members(path, _local_zip(Path(path)), size, None)
    elif file.ranges:
        yield from _zip_members(path, zipfile.ZipFile(cast(IO[bytes], file)), size, file)
    else:
        raise DataError(
            f"{path} is a zip, which is read from its end, and its server can only send the whole; "
            "have it downloaded, to a folder that is named with --downloads"
        )


def text_of(archive: ArchiveFile, member: Member) -> str:
    """A member that should be a text. Raises: DataError if it is none."""
    try:
        return bytes(member.read()).decode()
    except UnicodeDecodeError as error:
        raise DataError(f"{archive}: {member.name!r} is no text ({error}); download it again") from None


def _plain_name(name: str) -> str:
    """A name as all archives could have it: without `./`, which tar -C DIR -cf x.tar . puts before each."""
    while name.startswith("./"):
        name = name[2:].lstrip("/")
    return name


def _tar(path: str, file: Seekable, size: int, slack: int) -> Iterator[Member]:
    """The members of a tar, compressed or not."""
    checked = CheckedFile(file, path, size)
    checked.unread(start := checked.read(8))
    content = unpacked(checked, start)
    if content is None:
        yield from _tar_members(path, checked, stored=file if isinstance(file, Region) else None)
    else:
        limit = MAX_EXPANSION * size + slack
        yield from _tar_members(path, CheckedFile(content, path, limit), stored=None)


def _tar_members(path: str, file: CheckedFile, *, stored: Region | None) -> Iterator[Member]:
    """Walk a tar. `stored`: its bytes, if any thread can read them again."""
    offset = 0
    while True:
        file.seek(offset)
        block = file.read(tarfile.BLOCKSIZE)
        if block == _END:  # of this tar, behind which another may have been appended, as tar -A does
            if (next_offset := _next_tar(file)) is None:
                return
            offset = next_offset
            continue
        header = _plain_header(block, offset) or _header(path, file, offset, block)
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
        name = _plain_name(name)
        if stored is None:
            read = _reader(file, path, name, start, size)
            nested = partial(_nested, f"{path}, {name}", Inner(file, start, size), size)
            yield Member(name, size, read, nested, partial(_taken, read))
        else:
            inner = stored.region(start, size)
            nested = partial(_nested, f"{path}, {name}", inner, size)
            yield Member(name, size, _region_reader(inner, path, name), nested)


_END = bytes(tarfile.BLOCKSIZE)  # a tar's end


def _next_tar(file: CheckedFile) -> int | None:
    """Where behind zeros the next tar begins in `file`; None if nothing follows, or something else."""
    zeros = bytes(READ_AHEAD)
    while data := file.read(READ_AHEAD):
        if data != zeros[: len(data)]:
            first = len(data) - len(data.lstrip(b"\0"))
            data = data[first - first % tarfile.BLOCKSIZE :]
            file.unread(data)
            return file.tell() if _is_header(data[: tarfile.BLOCKSIZE]) else None
    return None


def _is_header(block: bytes) -> bool:
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError:
        return False
    return True


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


def _header(path: str, file: CheckedFile, offset: int, block: bytes) -> _Fields:
    """Any other header, read by tarfile."""
    file.unread(block)
    try:
        member = tarfile.TarFile(fileobj=cast(IO[bytes], file)).next()
    except tarfile.ReadError:
        member = None
    if member is None:
        raise DataError(f"{path} ends early or is damaged after {offset:,} bytes; download it again")
    kind = tarfile.GNUTYPE_SPARSE if member.sparse is not None else member.type
    return member.name, kind, member.offset_data, member.size


def _nested(path: str, file: Seekable, size: int) -> Iterator[Member]:
    with _naming(path):
        yield from _tar(path, file, size, SLACK_INSIDE)


def _taken(read: Callable[[], Data]) -> Callable[[], Data]:
    data = read()
    return lambda: data


def _reader(file: CheckedFile, path: str, name: str, start: int, size: int) -> Callable[[], Data]:
    def read() -> Data:
        with _naming(path):
            file.seek(start)
            return _whole(file.read(_small(path, name, size)), path, name, size)

    return read


def _region_reader(region: Region, path: str, name: str) -> Callable[[], Data]:
    def read() -> Data:
        with _naming(path):
            return _whole(region.all(_small(path, name, region.size)), path, name, region.size)

    return read


def _local_zip(path: Path) -> zipfile.ZipFile:
    with ExitStack() as opened:
        archive = zipfile.ZipFile(opened.enter_context(path.open("rb")))
        # It stays open: other threads read the members later.
        weakref.finalize(archive, opened.pop_all().close)
    return archive


def _zip_members(path: str, archive: zipfile.ZipFile, size: int, stream: Stream | None) -> Iterator[Member]:
    """The members of a zip. `stream`: what it is read from, if only in order."""
    limit = MAX_EXPANSION * size + SLACK
    if sum(entry.file_size for entry in archive.infolist()) > limit:
        raise DataError(f"{path} would unpack to more than {limit:,} bytes: a zip bomb, not a data set")
    for entry in sorted(archive.infolist(), key=lambda entry: entry.header_offset):
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
        name = _plain_name(entry.filename.replace("\\", "/"))  # a backslash is Windows's
        nested = partial(_zip_nested, archive, entry, f"{path}, {name}")
        take = partial(_zip_taken, stream, entry, path) if stream else None
        yield Member(
            name, entry.file_size, _zip_reader(partial(archive.open, entry), entry, path), nested, take
        )


def _zip_reader(open_entry: Callable[[], IO[bytes]], entry: zipfile.ZipInfo, path: str) -> Callable[[], Data]:
    def read() -> Data:
        size = _small(path, entry.filename, entry.file_size)
        with _naming(path), open_entry() as file:
            return _whole(file.read(size), path, entry.filename, size)  # checks the CRC at the end

    return read


_ZIP_HEADER = struct.Struct("<4s22xHH")  # PK34, …, bytes of the name and of extra fields


def _zip_taken(stream: Stream, entry: zipfile.ZipInfo, path: str) -> Callable[[], Data]:
    """Bring an entry into memory as it is stored: any thread can unpack it then."""
    with _naming(path):
        stream.seek(entry.header_offset)
        magic, name, extra = _ZIP_HEADER.unpack(stream.read(_ZIP_HEADER.size))
        if magic != b"PK\3\4":
            raise zipfile.BadZipFile(f"{entry.filename!r} does not begin where the directory says")
        stream.read(name + extra)
        stored = io.BytesIO(stream.read(_small(path, entry.filename, entry.compress_size)))
    return _zip_reader(lambda: cast(IO[bytes], zipfile.ZipExtFile(stored, "r", entry)), entry, path)


def _zip_nested(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, path: str) -> Iterator[Member]:
    with _naming(path), archive.open(entry) as file:
        yield from _tar(path, cast(Seekable, file), entry.file_size, SLACK_INSIDE)


def _small(path: str, name: str, size: int) -> int:
    if size > MAX_MEMBER:
        raise DataError(
            f"{path}: {name!r} has {size:,} bytes; no image of a data set has more than {MAX_MEMBER:,}"
        )
    return size


def _whole(data: Data, path: str, name: str, size: int) -> Data:
    if len(data) != size:
        raise DataError(f"{path} ends early, in {name!r}; download it again")
    return data


class _naming:
    """Turns errors of the archive libraries into a sentence about the archive."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, _DAMAGE) and not isinstance(error, DataError):
            reason = str(error) or type(error).__name__
            raise DataError(
                f"{self._path} cannot be read as an archive ({reason}); download it again"
            ) from None
