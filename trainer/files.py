"""Files that are whole or absent whenever the power goes, and folders in which one process is at work."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from trainer.errors import TrainerError


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` to `path`: the whole of it or nothing, whenever the power goes."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, content: str) -> None:
    """Write `content` to `path`: the whole of it or nothing, whenever the power goes."""
    with atomic_path(path) as partial, partial.open("w") as file:
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
        partial.unlink(missing_ok=True)
        raise
    os.replace(partial, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Return when the names in `folder` would outlive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def file_lock(path: Path, *, timeout: float, otherwise: TrainerError) -> Iterator[None]:
    """Hold the file `path`, which one process at a time can.

    Args:
        path: made if missing; it is free when its holder has ended, whichever way.
        timeout: seconds to wait for another holder.
        otherwise: raised when they are over.
    """
    lock = FileLock(path, timeout=-1 if math.isinf(timeout) else timeout, poll_interval=0.2)
    try:
        lock.acquire()
    except Timeout:
        raise otherwise from None
    try:
        yield
    finally:
        lock.release()
