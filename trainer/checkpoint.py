"""Snapshots of a run that are complete or absent.

A snapshot is written beside its final name, flushed to the disk, and renamed. The name carries the
first 16 hex digits of its SHA-256, as torch.hub's file names do, so a damaged file is known by
reading it: neither torch.load nor safetensors notices a flipped byte.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from trainer.errors import CheckpointError
from trainer.world import World

KEEP = 3  # newest snapshots
_NAME = re.compile(r"step-(\d{8})-([0-9a-f]{16})\.pt")


class Stateful(Protocol):
    """A part of a run that outlives the process."""

    def state_dict(self) -> dict[str, Any]:
        """The state as plain data and tensors."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Take up a state."""


class Checkpoints:
    """The snapshots of one run in `folder`. All processes read them, the first one writes."""

    def __init__(self, folder: Path, world: World, *, identity: str) -> None:
        self._folder, self._world, self._identity = folder, world, identity

    def save(self, step: int, parts: Mapping[str, Stateful]) -> None:
        """Write a snapshot of `parts` after `step` steps; return when it is durable.

        Raises: CheckpointError if the disk does not take it; older snapshots stay.
        """
        if self._world.first:
            state = {name: part.state_dict() for name, part in parts.items()}
            buffer = io.BytesIO()
            torch.save({"identity": self._identity, "parts": state}, buffer)
            self._write(step, buffer.getbuffer())
            for old in self.found()[KEEP:]:
                old.unlink(missing_ok=True)
        self._world.wait()

    def restore_newest(self, parts: Mapping[str, Stateful]) -> bool:
        """Load the newest sound snapshot into `parts`; return whether there was one.

        Raises: CheckpointError if there are snapshots and none can be used.
        """
        damaged = []
        for path in self.found():
            saved = _read(path)
            if saved is None:
                damaged.append(path.name)
                continue
            if damaged:
                warnings.warn(
                    f"damaged snapshot passed over: {', '.join(damaged)}; using {path.name}", stacklevel=2
                )
            if saved["identity"] != self._identity:
                raise CheckpointError(
                    f"{path} belongs to another recipe or data set; start a new run with another --name"
                )
            for name, part in parts.items():
                part.load_state_dict(saved["parts"][name])
            return True
        if damaged:
            raise CheckpointError(
                f"all snapshots in {self._folder} are damaged ({', '.join(damaged)}); "
                "restore one from a backup, or delete the folder to start the run again"
            )
        return False

    def found(self) -> list[Path]:
        """Snapshots, newest first; whether they are sound is not known yet."""
        return sorted((p for p in self._folder.glob("step-*.pt") if _NAME.fullmatch(p.name)), reverse=True)

    def _write(self, step: int, data: memoryview) -> None:
        digest = hashlib.sha256(data).hexdigest()[:16]
        final = self._folder / f"step-{step:08d}-{digest}.pt"
        partial = self._folder / ".partial.pt"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(partial, final)
            folder = os.open(self._folder, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
        except OSError as error:
            partial.unlink(missing_ok=True)
            raise CheckpointError(
                f"the snapshot {final} cannot be written: {error.strerror}; make room and start again to go on"
            ) from None


def load_part(path: Path, name: str) -> dict[str, Any]:
    """One part's state from a snapshot file, on the CPU.

    Raises: CheckpointError if the file is missing, damaged or no snapshot.
    """
    if not _NAME.fullmatch(path.name):
        raise CheckpointError(
            f"{path} is no snapshot of this program; its name must be step-NUMBER-DIGEST.pt"
        )
    saved = _read(path)
    if saved is None:
        raise CheckpointError(
            f"the snapshot {path} is missing or damaged; use another one from the same folder"
        )
    part: dict[str, Any] = saved["parts"][name]
    return part


def _read(path: Path) -> dict[str, Any] | None:
    """The content of a sound snapshot, or None."""
    named = _NAME.fullmatch(path.name)
    try:
        data = path.read_bytes()
    except OSError:
        return None
    if named is None or hashlib.sha256(data).hexdigest()[:16] != named[2]:
        return None
    saved: dict[str, Any] = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    return saved
