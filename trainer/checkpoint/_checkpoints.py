"""Checkpoints of a run that are complete or absent.

The state is copied to the host's memory while training waits, for some hundredths of a second. A
thread writes the copy beside its final name, flushes it to the disk and renames it. The name carries
the first 16 hex digits of its SHA-256, as torch.hub's file names do, so a damaged file is known by
reading it: neither torch.load nor safetensors notices a flipped byte.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from trainer.checkpoint._files import (
    BEGINNING,
    BEST,
    checkpoint_step,
    list_checkpoints,
    load_content,
    read_verified,
    write_checkpoint,
)
from trainer.checkpoint._staging import Memory, Stateful, arrival, copy_to_host, is_finite
from trainer.config import Recipe
from trainer.distributed import World
from trainer.errors import CheckpointError, first_line
from trainer.files import point

KEEP = 3  # newest checkpoints, and the best
INTERVAL = 60.0  # seconds
GPU_TIMEOUT = 10.0  # seconds that a GPU has to hand over a last copy when all else has failed

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Staged:
    """The state at a step, in memory of its own."""

    step: int
    best: int
    content: dict[str, Any]
    memory: Memory  # what the tensors of `content` lie in
    arrived: Callable[[], bool]  # whether the GPU has copied all of it
    flush_first: Callable[[], None]


class Checkpoints:
    """The checkpoints of one run in `folder`. All processes call it alike, the first reads and writes.

        with Checkpoints(folder, world, recipe=…, dataset_digest=…) as checkpoints:
            checkpoints.restore_newest(states)
            …
            checkpoints.save(step, states)   # returns when the state is copied
            checkpoints.wait()              # returns when it is durable

    Leaving the context finishes what is being written.
    """

    def __init__(
        self,
        folder: Path,
        world: World,
        *,
        recipe: Recipe,
        dataset_digest: str,
        classes: Mapping[str, str] = MappingProxyType({}),
        interval: float = INTERVAL,
    ) -> None:
        """Take over the checkpoints of a run.

        Args:
            folder: where they are; made if missing.
            world: the processes that train together.
            recipe: of the run; a checkpoint of other settings is refused.
            dataset_digest: of the run; a checkpoint of another data set is refused.
            classes: names in words by class_id, in label order; whoever loads a checkpoint has them from it.
            interval: seconds after which another checkpoint is due.
        """
        self._folder, self._world = folder, world
        self._recipe, self._dataset_digest, self._classes = recipe, dataset_digest, dict(classes)
        self._interval = interval
        # The first is due at once: it takes memory and proves the disk before hours rely on both.
        self._since = -math.inf
        self._waiting: _Staged | None = None  # not begun yet
        self._writing = self._closing = False
        self._until = math.inf  # when to give up waiting for the GPU
        self._failed: Exception | None = None  # why the last copy did not become a checkpoint
        self._free: list[Memory] = []
        self._change = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="write-checkpoints", daemon=True)

    def __enter__(self) -> Checkpoints:
        if self._world.is_main:
            self._folder.mkdir(parents=True, exist_ok=True)
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        with self._change:
            self._closing = True
            if kind is not None:  # the GPU may wait for a process that is no more
                self._until = time.monotonic() + GPU_TIMEOUT
            self._change.notify_all()
        self._thread.join()

    def due(self) -> bool:
        """Whether it is time for another checkpoint and the disk has taken the last one; asked of the first."""
        busy = self._waiting is not None or self._writing
        return self._world.is_main and not busy and time.monotonic() - self._since >= self._interval

    def save(
        self,
        step: int,
        states: Mapping[str, Stateful],
        *,
        best: int = 0,
        flush_first: Callable[[], None] = lambda: None,
    ) -> None:
        """Take a checkpoint of `states` after `step` steps; return when the state is copied.

        A failed write is logged and tried again with the next checkpoint; older ones stay.

        Args:
            step: optimizer steps done.
            states: what outlives the process, by name.
            best: step of the best evaluation so far; its checkpoint is kept.
            flush_first: called by the thread before it writes; the checkpoint counts only if it returns.
        """
        staged = {name: part.state_dict() for name, part in states.items()}
        if not self._world.is_main:
            return
        with self._change:
            # Never more than two copies in memory: one that is written and one that waits.
            self._change.wait_for(lambda: self._waiting is None)
            memory = self._free.pop() if self._free else {}
        content = {
            "recipe": self._recipe.as_dict(),
            "dataset_digest": self._dataset_digest,
            "classes": self._classes,
            "states": copy_to_host(staged, memory),
        }
        waiting = _Staged(step, best, content, memory, arrival(self._world.device), flush_first)
        with self._change:
            self._waiting, self._since = waiting, time.monotonic()
            self._change.notify_all()

    def wait(self) -> None:
        """Return when everything that was saved is durable.

        Raises: CheckpointError, on all processes alike, if the newest could not be written.
        """
        self._world.broadcast_from_rank0(self._wait)

    def _wait(self) -> None:
        with self._change:
            self._change.wait_for(lambda: self._waiting is None and not self._writing)
        if isinstance(self._failed, CheckpointError):
            raise CheckpointError(f"{self._failed}; make room and start again to go on")
        if self._failed:
            raise self._failed

    def newest(self) -> Path | None:
        """The newest checkpoint, when nothing is being written any more; None if there is none."""
        return self._world.broadcast_from_rank0(self._newest_written)

    def _newest_written(self) -> Path | None:
        with self._change:
            self._change.wait_for(lambda: self._waiting is None and not self._writing)
        return next(iter(list_checkpoints(self._folder)), None)

    def restore_newest(self, states: Mapping[str, Stateful]) -> bool:
        """Load the newest sound checkpoint into `states`; return whether there was one.

        Raises: CheckpointError, on all processes alike, if there are checkpoints and none can be used.
        """
        newest = self._world.broadcast_from_rank0(self._newest)
        if newest is None:
            return False
        file, data = newest
        saved = load_content(data, self._folder / file)
        others = [
            f"{key}={theirs} instead of {ours}"
            for key, (theirs, ours) in self._recipe.differences(saved["recipe"]).items()
        ]
        if saved["dataset_digest"] != self._dataset_digest:
            others.append("another data set")
        if others:
            raise CheckpointError(
                f"{self._folder / file} belongs to another run, of {', '.join(others)}; start a new run with another "
                "--name"
            )
        for name, part in states.items():
            if saved.get(BEGINNING) and name not in saved["states"]:
                continue  # the run begins with this part as it was made
            try:
                part.load_state_dict(saved["states"][name])
            except (LookupError, TypeError, ValueError, AttributeError, RuntimeError) as error:
                raise CheckpointError(
                    f"{self._folder / file} does not fit this run: its state {name} cannot be taken up "
                    f"({first_line(error)}); delete it to go on from the one before"
                ) from None
        return True

    def _newest(self) -> tuple[str, bytes] | None:
        damaged: list[str] = []
        foreign: CheckpointError | None = None
        for path in list_checkpoints(self._folder):
            data = read_verified(path)
            try:
                if data is not None:
                    load_content(data, path)
            except CheckpointError as error:
                data, foreign = None, foreign or error
            if data is None:
                damaged.append(path.name)
                continue
            if damaged:
                logger.warning("damaged checkpoint passed over: %s; using %s", ", ".join(damaged), path.name)
            return path.name, data
        if foreign:
            raise foreign
        if damaged:
            raise CheckpointError(
                f"all checkpoints in {self._folder} are damaged ({', '.join(damaged)}); "
                "restore one from a backup, or delete the folder to start the run again"
            )
        return None

    def _work(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._waiting is not None or self._closing)
                if self._waiting is None:
                    return
                staged, self._waiting, self._writing = self._waiting, None, True
                self._change.notify_all()
            failed: Exception | None = None
            try:
                self._write_checkpoint(staged)
            except CheckpointError as error:
                logger.warning("%s; it is tried again with the next one, and training goes on", error)
                failed = error
            except Exception as error:  # a bug of ours: `wait` raises it where it is seen
                failed = error
            with self._change:
                self._failed, self._writing = failed, False
                self._free.append(staged.memory)
                self._change.notify_all()

    def _write_checkpoint(self, staged: _Staged) -> None:
        while not staged.arrived():
            if time.monotonic() > self._until:
                raise CheckpointError(
                    f"the state at step {staged.step} is not saved: the GPU does not hand it over"
                )
            time.sleep(0.005)
        if not all(map(is_finite, staged.memory.values())):
            raise CheckpointError(
                f"the state at step {staged.step} is not saved: it holds numbers that are infinite or none"
            )
        try:
            staged.flush_first()
            # Not its parents: where a volume was, there is now a folder of another disk.
            self._folder.mkdir(exist_ok=True)
            final = write_checkpoint(self._folder, staged.step, staged.content)
        except OSError as error:
            raise CheckpointError(
                f"the checkpoint of step {staged.step} cannot be written to {self._folder}: {error.strerror}"
            ) from None
        try:
            self._tidy(staged.best, keep=final)
        except OSError as error:  # it counts all the same
            logger.warning("%s cannot be tidied up: %s; training goes on", self._folder, error.strerror)

    def _tidy(self, best: int, *, keep: Path) -> None:
        """Delete what is neither new nor best, nor of `keep`'s step and older; point to the best checkpoint."""
        checkpoints = list_checkpoints(self._folder)
        newest = [keep, *(path for path in checkpoints if checkpoint_step(path) < checkpoint_step(keep))][
            :KEEP
        ]
        bests = [path for path in checkpoints if checkpoint_step(path) == best]
        for old in {*checkpoints} - {*newest, *bests[:1]}:
            old.unlink(missing_ok=True)
        if bests:
            point(self._folder / BEST, bests[0].name)
