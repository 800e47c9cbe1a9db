"""Checkpoint files: their names, what they hold, and whether that is what was written."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import re
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, cast

import torch

from trainer.errors import CheckpointError, first_line
from trainer.files import follow, read_regular, sync_folder

BEGINNING = "beginning"  # set in the content of a checkpoint that holds only what a run begins with
BEST = "best.pt"  # a link to the checkpoint of the best evaluation so far
_KEYS = {"recipe": dict, "dataset_digest": str, "classes": dict, "states": dict}  # of a checkpoint's content
_NAME = re.compile(r"step-(\d{8})-([0-9a-f]{16})\.pt")


def checkpoint_name(step: int, digest: str) -> str:
    """Name of the checkpoint of `step` whose SHA-256 begins with the 16 hexadecimal digits `digest`."""
    return f"step-{step:08d}-{digest}.pt"


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints in `folder`, newest first; whether they are sound is not known yet."""
    there = []
    for path in folder.glob("step-*.pt"):
        if _NAME.fullmatch(path.name):
            with suppress(FileNotFoundError):  # its trainer has just deleted it
                there.append((checkpoint_step(path), path.stat().st_mtime_ns, path))
    return [path for *_, path in sorted(there, reverse=True)]


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What a checkpoint file holds: recipe, dataset_digest, classes, states; on the CPU.

    Raises: CheckpointError if the file is missing, damaged or no checkpoint.
    """
    path = follow(path)  # best.pt leads to another
    if not _NAME.fullmatch(path.name):
        raise CheckpointError(
            f"{path} is no checkpoint of this program; its name must be step-NUMBER-DIGEST.pt"
        )
    data = read_verified(path)
    if data is None:
        raise CheckpointError(
            f"the checkpoint {path} is missing or damaged; use another one from the same folder"
        )
    return load_content(data, path)


def load_state(path: Path, name: str) -> dict[str, Any]:
    """The state saved under `name` in a checkpoint file, on the CPU.

    Raises: CheckpointError if the file is missing, damaged or no checkpoint.
    """
    state: dict[str, Any] = load_checkpoint(path)["states"].get(name, {})
    if not state:
        raise CheckpointError(f"the checkpoint {path} holds no state called {name}; another recipe wrote it")
    return state


def checkpoint_step(path: Path) -> int:
    """The optimizer step that a checkpoint's name tells."""
    return int(path.name[5:13])


class _Hashed(io.RawIOBase):
    """A file that keeps the SHA-256 of what it is given, and its first error to itself.

    torch's writer, in C++, makes a RuntimeError of every error, and at times a second one on its way out.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.sha256 = file, hashlib.sha256()
        self.error: OSError | None = None

    def writable(self) -> bool:
        return True

    def write(self, data: Any, /) -> int:
        self.sha256.update(data)
        try:
            if self.error is None:
                self._file.write(data)
        except OSError as error:
            self.error = error
        return len(data)


def write_content(content: dict[str, Any], file: BinaryIO) -> str:
    """Write a checkpoint's content; return the first 16 hexadecimal digits of its SHA-256."""
    hashed = _Hashed(file)
    torch.save(content, cast(BinaryIO, hashed))
    if hashed.error:
        raise hashed.error
    return hashed.sha256.hexdigest()[:16]


def write_checkpoint(folder: Path, step: int, content: dict[str, Any]) -> Path:
    """Write a checkpoint of `step` to `folder`, which is there: complete or not at all, whenever the power goes.

    Raises: OSError if the disk does not take it.
    """
    partial = folder / ".partial.pt"
    try:
        with partial.open("wb") as file:
            digest = write_content(content, file)
            file.flush()
            os.fsync(file.fileno())
        final = folder / checkpoint_name(step, digest)
        os.replace(partial, final)
        sync_folder(folder)
    except OSError:
        with suppress(OSError):  # of a disk that takes nothing the first error says enough
            partial.unlink(missing_ok=True)
        raise
    return final


def read_verified(path: Path) -> bytes | None:
    """The content of a checkpoint that is what it was when it was written, or None."""
    named = _NAME.fullmatch(path.name)
    try:
        data = read_regular(path)
    except OSError:
        return None
    if named is None or hashlib.sha256(data).hexdigest()[:16] != named[2]:
        return None
    return data


def load_content(data: bytes, path: Path) -> dict[str, Any]:
    """The content of the verified checkpoint `path`.

    A digest in a name says that a file is whole, not who made it: nothing in it is run, whatever it holds.

    Raises: CheckpointError if it holds more than data, or other data.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch, about what others write
            saved: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"the checkpoint {path} holds more than numbers and text, so this program did not write it; it was not "
            "run: delete it if you do not know where it is from"
        ) from None
    except Exception as error:  # torch.load has no common one for a file that is something else
        raise CheckpointError(
            f"the checkpoint {path} is some other file ({first_line(error)}); delete it, or use another one"
        ) from None
    if not _is_content(saved):
        raise CheckpointError(
            f"the checkpoint {path} is not one of this version of trainer; go on with the version that wrote it, or "
            "begin a new run with another --name"
        )
    return saved


def _is_content(saved: object) -> bool:
    if not isinstance(saved, dict) or not all(
        isinstance(saved.get(key), kind) for key, kind in _KEYS.items()
    ):
        return False
    try:
        json.dumps([saved["recipe"], saved["classes"]])  # words and numbers only
    except (TypeError, ValueError, RecursionError):
        return False
    texts = (text for pair in saved["classes"].items() for text in pair)
    return all(isinstance(text, str) for text in texts) and all(
        isinstance(state, dict) for state in saved["states"].values()
    )
