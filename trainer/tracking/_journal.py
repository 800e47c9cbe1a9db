"""The journal of a run: the writing end. What is logged is on disk before MLflow has it.

One JSON object a line, each appended by a single write. A record that was cut off by a kill is the last line and has no
end; readers skip it, the next writer removes it. MLflow is brought up to date from here (`_sync`), as often as needed.
"""

from __future__ import annotations

import errno
import json
import logging
import math
import os
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from trainer.files import atomic_path, read_regular, sync_folder
from trainer.tracking._history import JOURNAL, Ending, Point, RunInfo, is_record, read_journal


class RunLog(Protocol):
    """The training loop's log: a `Journal`, or `NullLog` on all ranks but 0."""

    def start(self, info: RunInfo) -> None:
        """Open the run; a run that was opened before goes on, and takes over only the tags that changed."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log `values` as measured after `step` optimizer steps."""

    def step_done(self, step: int) -> None:
        """Take note that `step` optimizer steps are done, by the host's count; called after each, so it is quick."""

    def truncate_after(self, step: int) -> None:
        """Remove what was measured after `step`; it will be measured again."""

    def flush(self) -> None:
        """Return when everything that was logged would outlive a power cut."""

    def finish(self, status: Ending, reason: str = "") -> None:
        """Log how the run ended, and why if that is worth a sentence."""


class Journal:
    """The writing end of a run's journal. One process writes; any may read meanwhile.

    While the disk takes nothing, records wait in memory and training goes on; `flush` raises the error, and a
    checkpoint that asked for it does not count.
    """

    def __init__(self, folder: Path) -> None:
        """Open the journal of the run in `folder`, made if missing, and mend its torn end."""
        self._folder, self._started = folder, False
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / JOURNAL
        self._waiting: list[bytes] = []  # records that the disk has not taken yet
        self._lock = threading.Lock()  # the thread that writes checkpoints comes here as well
        self._file = self._open()
        sync_folder(folder)
        self._newest = _newest(read_journal(folder, empty=True).points)

    def start(self, info: RunInfo) -> None:
        """Open the run; a run that was opened before goes on, and takes over only the tags that changed."""
        self._started = True
        known = read_journal(self._folder, empty=True)
        if known.key:
            changed = {key: value for key, value in info.tags.items() if known.tags.get(key) != value}
            self._append("resume", idle=True, tags=changed)
        else:
            self._append("start", key=uuid.uuid4().hex, **asdict(info))
        self.flush()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log `values` as measured after `step` optimizer steps. Costs one write, no wait.

        What was logged for the newest step stays: a run cut off between an evaluation and its checkpoint evaluates
        again. inf and nan are written as text, for JSON has neither, and not sent to MLflow.
        """
        newest, keys = self._newest
        known = keys if step == newest else set()
        numbers = {key: float(value) for key, value in values.items() if key not in known}
        self._newest = step, known | numbers.keys()
        if numbers:
            finite = {key: x if math.isfinite(x) else str(x) for key, x in numbers.items()}
            self._append("metrics", step=step, values=finite)

    def step_done(self, step: int) -> None:
        """Do nothing: steps are in the journal by their metrics."""

    def note(self, text: str) -> None:
        """Log a message to whoever looks after the run. Any thread may, and a signal handler: it never waits."""
        # What was noted before the start is no time of training.
        idle = {} if self._started else {"idle": True}
        self._waiting.append(_record("note", text=text, **idle))
        # A handler that interrupts a write would wait for it for ever; then the next record takes the note along.
        if self._lock.acquire(blocking=False):
            try:
                with suppress(OSError):
                    self._write_waiting()
            finally:
                self._lock.release()

    def truncate_after(self, step: int) -> None:
        """Remove what was measured after `step`: all or nothing, whenever the power goes."""
        with self._lock:
            self._write_waiting()
            lines = self._path.read_bytes().splitlines(keepends=True)
            removed = [at for at, line in enumerate(lines) if json.loads(line).get("step", step) > step]
            if not removed:
                return
            # What is removed has taken its time all the same.
            last = {"kind": "truncated", "time": json.loads(lines[removed[-1]])["time"]}
            lines[removed[-1]] = json.dumps(last).encode() + b"\n"
            without = set(removed[:-1])
            with atomic_path(self._path) as partial, partial.open("wb") as file:
                file.writelines(line for at, line in enumerate(lines) if at not in without)
                file.flush()
                os.fsync(file.fileno())
            os.close(self._file)
            self._file = self._open()
        self._newest = _newest(read_journal(self._folder, empty=True).points)

    def flush(self) -> None:
        """Return when everything that was logged would outlive a power cut; call it before a checkpoint counts.

        Raises: OSError if the disk does not take it.
        """
        with self._lock:
            self._write_waiting()
            os.fsync(self._file)

    def finish(self, status: Ending, reason: str = "") -> None:
        """Log how the run ended, and why; a later `start` goes on with it all the same.

        Raises: OSError if the disk does not take it.
        """
        why = {"reason": reason} if reason else {}
        self._append("end", status=status, **why, **({} if self._started else {"idle": True}))
        self.flush()

    def _append(self, kind: str, **content: Any) -> None:
        record = _record(kind, **content)
        with self._lock:
            self._waiting.append(record)
            with suppress(OSError):
                self._write_waiting()

    def _write_waiting(self) -> None:
        while self._waiting:
            data = self._waiting[0]
            written = os.write(self._file, data)
            if written < len(data):
                os.ftruncate(self._file, os.fstat(self._file).st_size - written)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._path))
            del self._waiting[0]

    def _open(self) -> int:
        file = os.open(self._path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        sound = read_regular(self._path)
        while sound and not is_record(sound[sound.rfind(b"\n", 0, -1) + 1 :]):
            sound = sound[: sound.rfind(b"\n", 0, -1) + 1]
        os.ftruncate(file, len(sound))
        return file


class NullLog:
    """A log that keeps nothing: for all ranks but 0, and for tests."""

    def start(self, info: RunInfo) -> None:
        """Do nothing."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def step_done(self, step: int) -> None:
        """Do nothing."""

    def truncate_after(self, step: int) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""

    def finish(self, status: Ending, reason: str = "") -> None:
        """Do nothing."""


class JournalHandler(logging.Handler):
    """Writes log records of level WARNING and above into a journal, as notes. Never raises.

    logging.getLogger("trainer").addHandler(JournalHandler(journal))
    """

    def __init__(self, journal: Journal) -> None:
        super().__init__(logging.WARNING)
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        """Write the record's message, and its traceback if it has one."""
        with suppress(Exception):
            self._journal.note(self.format(record))


def _record(kind: str, **content: Any) -> bytes:
    line = {"kind": kind, "time": time.time_ns() // 1_000_000, **content}
    return json.dumps(line, allow_nan=False).encode() + b"\n"


def _newest(points: Sequence[Point]) -> tuple[int, set[str]]:
    """The newest step, and the keys that were measured after it."""
    step = max((point.step for point in points), default=-1)
    return step, {point.key for point in points if point.step == step}
