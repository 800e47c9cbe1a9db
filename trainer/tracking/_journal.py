"""The journal: everything a run has to tell, on disk before anybody else hears of it.

One JSON object a line, each appended by a single write. A record that was cut off by a kill is the
last line and has no end; readers pass it over, the next writer removes it. MLflow is brought up to
date from here (`_shipping`), as often as needed.
"""

from __future__ import annotations

import errno
import json
import math
import os
import threading
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple, Protocol

from trainer.errors import TrackingError
from trainer.files import sync_folder

JOURNAL = "journal.jsonl"

Ending = Literal["finished", "interrupted", "failed"]
Status = Literal["running", "finished", "interrupted", "failed"]


@dataclass(frozen=True)
class DatasetInfo:
    """What a run was trained on."""

    name: str
    digest: str  # SHA-256 of the manifest, hexadecimal
    source: str  # the folder, as the trainer saw it
    counts: Mapping[str, int] = field(default_factory=dict)  # e.g. train, val, classes


class RunLog(Protocol):
    """Where the training loop tells what happens: a `Journal`, or `NullLog` on all ranks but 0."""

    def start(
        self,
        *,
        name: str,
        experiment: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        dataset: DatasetInfo,
    ) -> None:
        """Open the run, or go on with it: then only tags that changed are noted."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Note `values` as measured after `step` optimizer steps."""

    def note(self, text: str) -> None:
        """Note a sentence that whoever looks after the run should know. Any thread may."""

    def truncate_after(self, step: int) -> None:
        """Forget what was measured after `step`; it will be measured again."""

    def flush(self) -> None:
        """Return when all that was noted would outlive a power cut."""

    def finish(self, status: Ending) -> None:
        """Note how the run ended."""


class Point(NamedTuple):
    """One measured value; inf and nan are kept as measured."""

    key: str
    step: int  # optimizer steps
    value: float
    time: int  # ms since 1970


@dataclass
class RunHistory:
    """All that a journal tells."""

    key: str = ""  # names this run in any MLflow server; empty before the first record
    name: str = ""
    experiment: str = ""
    started: int = 0  # ms since 1970
    ended: int | None = None  # ms since 1970; None while the run is going on
    status: Status = "running"
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    dataset: DatasetInfo | None = None
    points: list[Point] = field(default_factory=list)  # in the order they were logged
    seconds: float = 0.0  # from each start to the last that was heard of it, all starts together
    _heard: int | None = None  # ms since 1970; the last record

    def _add(self, record: dict[str, Any]) -> None:
        # Nobody trained between an end, or the last word before a kill, and the next start.
        if self.status == "running" and self._heard is not None and not record.get("idle"):
            self.seconds += max(0, record["time"] - self._heard) / 1000
        self._heard = record["time"]
        match record["kind"]:
            case "start":
                self.key, self.name, self.experiment = record["key"], record["name"], record["experiment"]
                self.started, self.params = record["time"], record["params"]
                self.tags.update(record["tags"])
                self.dataset = DatasetInfo(**record["dataset"])
            case "resume":
                self.status, self.ended = "running", None
                self.tags.update(record["tags"])
            case "metrics":
                self.points += (
                    Point(key, record["step"], float(value), record["time"])
                    for key, value in record["values"].items()
                )
            case "end":
                self.status, self.ended = record["status"], record["time"]


class Journal:
    """The writing end of a run's journal. One process writes; any may read meanwhile.

    While the disk takes nothing, records wait in memory and training goes on; `flush` says so, and a
    checkpoint that asked for it does not count.
    """

    def __init__(self, folder: Path) -> None:
        """Open the journal of the run in `folder`, made if missing, and mend its torn end."""
        self._folder, self._started = folder, False
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / JOURNAL
        self._waiting: list[bytes] = []  # records that the disk has not taken yet
        self._alone = threading.Lock()  # the thread that writes checkpoints comes here as well
        self._file = self._open()
        sync_folder(folder)
        self._newest = _newest(read_journal(folder, empty=True).points)

    def start(
        self,
        *,
        name: str,
        experiment: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        dataset: DatasetInfo,
    ) -> None:
        """Open the run, or go on with it: then only tags that changed are noted.

        Args:
            name: the run's name in MLflow.
            experiment: the MLflow experiment it belongs to.
            params: the settings, by dotted key; those of the first start count.
            tags: facts about the circumstances (commit, GPU type, processes); may change on a resume.
            dataset: what it is trained on.
        """
        self._started = True
        known = read_journal(self._folder, empty=True)
        if known.key:
            changed = {key: value for key, value in tags.items() if known.tags.get(key) != value}
            self._append("resume", idle=True, tags=changed)
        else:
            self._append(
                "start",
                key=uuid.uuid4().hex,
                name=name,
                experiment=experiment,
                params=dict(params),
                tags=dict(tags),
                dataset=asdict(dataset),
            )
        self.flush()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Note `values` as measured after `step` optimizer steps. Costs one write, no wait.

        What was noted for the newest step stays: a run cut off between an evaluation and its checkpoint
        evaluates again. inf and nan are noted as text, for JSON has neither, and not shipped to MLflow.
        """
        newest, keys = self._newest
        known = keys if step == newest else set()
        numbers = {key: float(value) for key, value in values.items() if key not in known}
        self._newest = step, known | numbers.keys()
        if numbers:
            finite = {key: x if math.isfinite(x) else str(x) for key, x in numbers.items()}
            self._append("metrics", step=step, values=finite)

    def note(self, text: str) -> None:
        """Note a sentence that whoever looks after the run should know."""
        self._append("note", text=text)

    def truncate_after(self, step: int) -> None:
        """Forget what was measured after `step`: all or nothing, whenever the power goes."""
        with self._alone:
            self._write_waiting()
            lines = self._path.read_bytes().splitlines(keepends=True)
            gone = [at for at, line in enumerate(lines) if json.loads(line).get("step", step) > step]
            if not gone:
                return
            # What is forgotten has taken its time all the same.
            until = json.dumps({"kind": "cut", "time": json.loads(lines[gone[-1]])["time"]})
            lines[gone[-1]] = until.encode() + b"\n"
            forgotten = set(gone[:-1])
            kept = [line for at, line in enumerate(lines) if at not in forgotten]
            beside = self._path.with_suffix(".cut")
            with beside.open("wb") as file:
                file.writelines(kept)
                file.flush()
                os.fsync(file.fileno())
            beside.replace(self._path)
            sync_folder(self._folder)
            os.close(self._file)
            self._file = self._open()
        self._newest = _newest(read_journal(self._folder, empty=True).points)

    def flush(self) -> None:
        """Return when all that was noted would outlive a power cut; call it before a checkpoint counts.

        Raises: OSError if the disk does not take it.
        """
        with self._alone:
            self._write_waiting()
            os.fsync(self._file)

    def finish(self, status: Ending) -> None:
        """Note how the run ended; a later `start` goes on with it all the same.

        Raises: OSError if the disk does not take it.
        """
        self._append("end", status=status, **({} if self._started else {"idle": True}))
        self.flush()

    def _append(self, kind: str, **facts: Any) -> None:
        line = json.dumps({"kind": kind, "time": time.time_ns() // 1_000_000, **facts}, allow_nan=False)
        with self._alone:
            self._waiting.append(line.encode() + b"\n")
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
        sound = self._path.read_bytes()
        while sound and not _is_record(sound[sound.rfind(b"\n", 0, -1) + 1 :]):
            sound = sound[: sound.rfind(b"\n", 0, -1) + 1]
        os.ftruncate(file, len(sound))
        return file


def _newest(points: Sequence[Point]) -> tuple[int, set[str]]:
    """The newest step, and what was measured after it."""
    step = max((point.step for point in points), default=-1)
    return step, {point.key for point in points if point.step == step}


class NullLog:
    """Notes nothing: for the ranks that do not speak for all, and for tests."""

    def start(
        self,
        *,
        name: str,
        experiment: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        dataset: DatasetInfo,
    ) -> None:
        """Do nothing."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Do nothing."""

    def note(self, text: str) -> None:
        """Do nothing."""

    def truncate_after(self, step: int) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""

    def finish(self, status: Ending) -> None:
        """Do nothing."""


class Tail:
    """The reading end: follows a journal while it is written, also past a `cut`."""

    def __init__(self, folder: Path) -> None:
        """Follow the journal of the run in `folder`; it need not be there yet."""
        self._path = folder / JOURNAL
        self._file: int | None = None  # kept open: its inode cannot be given to a new journal
        self._read = 0  # bytes
        self.history = RunHistory()

    def read(self) -> RunHistory:
        """The history up to now. After a `cut` it is a new object.

        Raises: TrackingError if the journal is damaged in the middle.
        """
        for number, line in self._new_lines():
            if not _is_record(line):
                raise TrackingError(
                    f"{self._path}, {number} bytes in: this line is damaged; "
                    "remove it to go on without what it told"
                )
            self.history._add(json.loads(line))
        return self.history

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _new_lines(self) -> Iterator[tuple[int, bytes]]:
        try:
            now = self._path.stat()
        except FileNotFoundError:
            return
        if self._file is None or os.fstat(self._file).st_ino != now.st_ino or now.st_size < self._read:
            self.close()
            self._file, self._read = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC), 0
            self.history = RunHistory()
        data = os.pread(self._file, os.fstat(self._file).st_size - self._read, self._read)
        for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
            yield self._read, line
            self._read += len(line)


def read_journal(folder: Path, *, empty: bool = False) -> RunHistory:
    """Everything the journal of the run in `folder` tells.

    Args:
        folder: the run folder.
        empty: answer an empty history instead of an error where there is no run yet.

    Raises: TrackingError if there is no run, or its journal is damaged in the middle.
    """
    tail = Tail(folder)
    history = tail.read()
    tail.close()
    if not history.key and not empty:
        raise TrackingError(
            f"{folder} is not a run: it has no {JOURNAL}; give a folder that `trainer train` made"
        )
    return history


def _is_record(line: bytes) -> bool:
    try:
        return line.endswith(b"\n") and "kind" in json.loads(line)
    except ValueError:
        return False
