"""Files that are whole or absent whenever the power goes, and folders in which one process is at work."""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from trainer.errors import TrainerError


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write `content` to `path`: the whole of it or nothing, whenever the power goes."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def write_text(path: Path, content: str) -> None:
    """Write `content` to `path`: the whole of it or nothing, whenever the power goes."""
    with replacing(path) as partial, partial.open("w") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
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
def alone(lock: Path, *, patience: float, otherwise: TrainerError) -> Iterator[None]:
    """Hold the file `lock`, which one process at a time can.

    Args:
        lock: made if missing; it is free when its holder has ended, whichever way.
        patience: seconds to wait for another holder.
        otherwise: raised when they are over.
    """
    with lock.open("w") as file:
        end = time.monotonic() + patience
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > end:
                    raise otherwise from None
                time.sleep(0.2)
        yield
