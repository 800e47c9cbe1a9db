"""Remote files that are read in place: ranges on their way ahead of the reader, and cut connections taken up again."""

from __future__ import annotations

import hashlib
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from trainer.dataset._addresses import Gone, name_of, shown_url
from trainer.dataset._filesystems import FileSystem
from trainer.dataset._web import WebServer
from trainer.errors import DataError, first_line

BLOCK = 8 * 2**20  # bytes that are asked for at once
MOST = 2**30  # bytes of one read; the directory of Kaggle's zip has a fifth of it
TRIES = 6  # in a row without a single byte
FIRST_TRIES = 3  # for the first answer of all: the address may be wrong
BACKOFF = 0.5  # seconds after the first failed try, doubled after each

T = TypeVar("T")


class Server(Protocol):
    """Where one remote file is."""

    size: int  # bytes
    version: str | None  # unlike that of another content of the same address, if the server knows one
    ranges: bool  # whether a part of the file can be asked for
    parallel: int  # ranges that may be in flight

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` to `end`, in pieces; without `ranges` those of the whole file.

        Raises: Gone if they will never come, any other exception if the next try may bring them.
        """


class RemoteFile:
    """One file behind an address. Its text is the address as it may be shown."""

    def __init__(self, url: str, *, backoff: float = BACKOFF) -> None:
        """Look whether it is there.

        Args:
            url: its address.
            backoff: seconds after the first failed try, doubled after each.

        Raises: DataError if it is not there, or may not be read.
        """
        self._shown, self._backoff = shown_url(url), backoff
        self.name = name_of(url)
        kind = WebServer if urlsplit(url).scheme in ("http", "https") else FileSystem
        self._server: Server = self._first(lambda: kind(url))
        self.size, self.version, self.ranges = self._server.size, self._server.version, self._server.ranges
        self.wants_md5 = False  # whether `md5` is to be computed
        self.md5: str | None = None  # of the whole, once it was read in one go

    def __str__(self) -> str:
        return self._shown

    def open(self) -> Stream:
        """The file, to be read from its beginning."""
        return Stream(self)

    def blocks(self, start: int) -> Generator[bytes]:
        """Its bytes from `start` to the end, in blocks, with others on their way.

        Raises: DataError if they do not come.
        """
        return self._in_ranges(start) if self.ranges else self._read_through(start)

    @property
    def ahead(self) -> int:
        """Bytes that may be on their way."""
        return BLOCK * self._server.parallel

    def _in_ranges(self, start: int) -> Generator[bytes]:
        pending: deque[Future[bytes]] = deque()
        stopped = threading.Event()
        pool = ThreadPoolExecutor(self._server.parallel, thread_name_prefix="read-ahead")
        ahead = 1  # whoever has sought may want little: it grows as blocks are taken
        try:
            while start < self.size or pending:
                while start < self.size and len(pending) < ahead:
                    end = min(start + BLOCK, self.size)
                    pending.append(pool.submit(self._range, start, end, stopped))
                    start = end
                ahead = min(2 * ahead, self._server.parallel)
                yield pending.popleft().result()
        finally:
            stopped.set()
            pool.shutdown(wait=False, cancel_futures=True)

    def _range(self, start: int, end: int, stopped: threading.Event) -> bytes:
        return b"".join(self._resumed(start, end, stopped))

    def _read_through(self, start: int) -> Generator[bytes]:
        """From a server that can only send the whole: what comes before `start` is passed over."""
        position = 0
        for piece in self._resumed(0, self.size, threading.Event()):
            position += len(piece)
            if position > start:
                yield piece[-(position - start) :]
                start = position

    def _resumed(self, start: int, end: int, stopped: threading.Event) -> Iterator[bytes]:
        """Pieces from `start` to `end`; after a cut, those that are missing."""
        failures = 0
        while start < end and not stopped.is_set():
            before = start
            again = 0 if self.ranges else start  # bytes that come again
            try:
                for piece in self._server.pieces(start, end):
                    fresh = piece[again:]
                    again -= len(piece) - len(fresh)
                    start += len(fresh)
                    if fresh:
                        yield fresh
                if start < end:
                    raise OSError(f"the connection ended {end - start:,} bytes early")
            except Gone as error:
                raise DataError(str(error)) from None
            except Exception as error:  # each library has its own; what passes is worth a try
                failures = failures + 1 if start == before else 1
                if failures >= TRIES:
                    raise DataError(
                        f"{self} cannot be read further ({first_line(error)}); nothing is lost: the same command goes "
                        "on later"
                    ) from None
                stopped.wait(self._backoff * 2 ** (failures - 1))

    def _first(self, look: Callable[[], T]) -> T:
        failures = 0
        while True:
            try:
                return look()
            except Gone as error:
                raise DataError(str(error)) from None
            except Exception as error:
                failures += 1
                if failures == FIRST_TRIES:
                    raise DataError(
                        f"{self} cannot be read ({first_line(error)}); look at the address and the network"
                    ) from None
            time.sleep(self._backoff * 2 ** (failures - 1))


class Stream:
    """A remote file with a position. Forwards it is read; backwards, or far forwards, it is asked for anew."""

    def __init__(self, file: RemoteFile) -> None:
        self._file, self._position = file, 0
        self.ranges = file.ranges
        self._blocks = file.blocks(0)
        self._block, self._begin = memoryview(b""), 0  # the last one that was taken, and where it begins
        self._hashed: Future[None] | None = None
        self._md5 = hashlib.md5(usedforsecurity=False) if file.wants_md5 else None
        self._hasher = ThreadPoolExecutor(1, thread_name_prefix="md5")

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, *_: object) -> None:
        self._restart(self._file.size)
        self._hasher.shutdown(wait=False)

    def read(self, size: int = -1, /) -> bytes:
        """Up to `size` bytes from the position, which moves; less only at the end."""
        left = self._file.size - self._position
        left = left if size < 0 else min(size, left)
        if left > MOST:
            raise ValueError(f"{left:,} bytes are to be read at once")
        parts = []
        while left > 0:
            inside = self._position - self._begin
            if inside >= len(self._block):
                self._take()
                continue
            parts.append(self._block[inside : inside + left])
            self._position += len(parts[-1])
            left -= len(parts[-1])
        return bytes(parts[0]) if len(parts) == 1 else b"".join(parts)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Set the position, from the beginning (`whence` 0), from here (1) or from the end (2)."""
        offset += (0, self._position, self._file.size)[whence]
        self._position = min(max(offset, 0), self._file.size)
        end = self._begin + len(self._block)
        far = self._file.ranges and self._position > end + self._file.ahead
        if self._position < self._begin or far:
            self._restart(self._position)
        while self._position > self._begin + len(self._block):
            self._take()
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def seekable(self) -> bool:
        """As zipfile asks."""
        return True

    def finish(self) -> None:
        """Read what is left, if it is wanted for the MD5 of the whole."""
        while self._md5 and self._position < self._file.size:
            self.read(BLOCK)

    def _take(self) -> None:
        """The next block. It is hashed while the one after it is read."""
        begin = self._begin + len(self._block)
        block = next(self._blocks)
        if self._md5 is not None:
            if self._hashed:
                self._hashed.result()
            self._hashed = self._hasher.submit(self._md5.update, block)
            if begin + len(block) == self._file.size:
                self._hashed.result()
                self._file.md5 = self._md5.hexdigest()
        self._begin, self._block = begin, memoryview(block)

    def _restart(self, position: int) -> None:
        self._blocks.close()
        self._blocks = self._file.blocks(position)
        self._begin, self._block, self._md5 = position, memoryview(b""), None
