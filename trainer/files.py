"""Files that are whole or absent whenever the power goes, and folders in which one process is at work.

Some disks (exFAT, SMB, FUSE, Lustre) lack what is only a convenience: links, locks, the flush of a folder. That is met
here alone.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import math
import os
import socket
import stat
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trainer.errors import TrainerError

# What a disk answers that lacks a service; all else is trouble.
LACKING = {errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EPERM, errno.ENOLCK}
POLL = 0.2  # seconds between two tries to lock

_warned: set[str] = set()
logger = logging.getLogger(__name__)


def read_regular(path: Path, *, most: int = sys.maxsize) -> bytes:
    """Content of a regular file, as long as it says it is: a pipe, a device or a file of /proc may never end.

    Args:
        path: of the file.
        most: bytes that are read.

    Raises: OSError if it cannot be read, or is none.
    """
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe's opening waits for a writer
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        parts, left = [], min(status.st_size, most)
        while left and (part := os.read(handle, left)):
            parts.append(part)
            left -= len(part)
    finally:
        os.close(handle)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def read_json(path: Path) -> Any:
    """What a regular file holds as JSON. Raises: OSError if it cannot be read; ValueError if it is none."""
    return parse_json(read_regular(path))


def parse_json(text: bytes | str) -> Any:
    """What `text` says as JSON. Raises: ValueError if it is none, also of brackets nested beyond all measure."""
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def write_json(path: Path, content: Mapping[str, Any] | Sequence[Any]) -> None:
    """Write `content` to `path`: the whole of it or nothing, whenever the power goes."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, content: str) -> None:
    """Write `content` to `path`: the whole of it or nothing, whenever the power goes."""
    # Names of files may be no UTF-8; they are written as they are.
    with atomic_path(path) as partial, partial.open("w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """Hands out a name beside `path` and moves it there if all went well. Flushing the file is the caller's."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        yield partial
    except BaseException:
        with suppress(OSError):  # what went wrong before says more
            partial.unlink(missing_ok=True)
        raise
    os.replace(partial, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Return when the names in `folder` would outlive a power cut, where its disk can tell."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in LACKING:
            raise
    finally:
        os.close(handle)


def point(path: Path, name: str) -> None:
    """Make `path` lead to the file `name` beside it: by a link, or by a small text where the disk has none."""
    if follow(path) == path.resolve().with_name(name):
        return
    beside = path.with_name(f".{path.name}.link")
    beside.unlink(missing_ok=True)
    try:
        beside.symlink_to(name)
    except OSError as error:
        if error.errno not in LACKING:
            raise
        beside.write_bytes(os.fsencode(name))
    os.replace(beside, path)


def follow(path: Path) -> Path:
    """The file that `path` leads to, by a link or as `point` wrote it; itself if it leads nowhere."""
    path = path.resolve()
    try:
        with path.open("rb") as file:
            name = os.fsdecode(file.read(200))
    except OSError:
        return path
    if not name or "\0" in name or Path(name).name != name:
        return path
    target = path.with_name(name)
    return target if target.is_file() else path


@contextmanager
def file_lock(path: Path, *, timeout: float, otherwise: TrainerError) -> Iterator[None]:
    """Hold the file `path`, which one process at a time can.

    On a disk without locks the kernel keeps other processes of this machine away, or of this container; nobody others.

    Args:
        path: made if missing; it is free when its holder has ended, whichever way.
        timeout: seconds to wait for another holder.
        otherwise: raised when they are over.
    """
    # Its own substitute is a file, which would outlive a kill.
    lock = FileLock(
        path, timeout=-1 if math.isinf(timeout) else timeout, poll_interval=POLL, fallback_to_soft=False
    )
    lacking: OSError | None = None
    try:
        lock.acquire()
    except Timeout:
        raise otherwise from None
    except OSError as error:
        if error.errno not in LACKING:
            raise
        lacking = error
    if lacking is None:
        try:
            yield
        finally:
            lock.release()
        return
    if "locks" not in _warned:
        _warned.add("locks")
        logger.warning(
            "the disk of %s has no locks (%s): see to it yourself that no other machine or container uses that "
            "folder at the same time",
            path.parent,
            lacking.strerror,
        )
    with _local_lock(path, timeout=timeout, otherwise=otherwise):
        yield


@contextmanager
def _local_lock(path: Path, *, timeout: float, otherwise: TrainerError) -> Iterator[None]:
    """Hold a name of the kernel's that stands for `path`: an abstract socket, gone with the process."""
    name = b"\0trainer-" + hashlib.sha256(os.fsencode(path.resolve())).hexdigest().encode()
    end = time.monotonic() + timeout
    with socket.socket(socket.AF_UNIX) as holder:
        while True:
            try:
                holder.bind(name)
                break
            except OSError as error:
                if error.errno != errno.EADDRINUSE:
                    raise
            if time.monotonic() >= end:
                raise otherwise
            time.sleep(POLL)
        yield
