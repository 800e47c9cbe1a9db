"""What a run's journal says: the reading end, which follows it while it is written."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from trainer.errors import TrackingError
from trainer.files import parse_json

JOURNAL = "journal.jsonl"
NOTES = 3  # warnings that are kept to be shown

Ending = Literal["finished", "interrupted", "failed"]
Status = Literal["running", "finished", "interrupted", "failed"]


@dataclass(frozen=True)
class DatasetInfo:
    """The data set of a run."""

    name: str
    digest: str  # SHA-256 of the manifest, hexadecimal
    source: str  # the folder, as the trainer saw it
    counts: Mapping[str, int] = field(default_factory=dict)  # e.g. train, val, classes
    val_digest: str = ""  # SHA-256 of what the validation images are, hexadecimal
    completeness: str = ""  # whether it is as published, in words; empty where nothing was published


@dataclass(frozen=True)
class RunInfo:
    """A run as it is known when it starts."""

    name: str  # the run's name in MLflow
    experiment: str  # name of the MLflow experiment the run belongs to
    params: Mapping[str, Any]  # settings by dotted key; those of the first start count
    tags: Mapping[str, str]  # circumstances such as commit, GPU, processes; they may change on a resume
    dataset: DatasetInfo
    description: str = ""  # Markdown, the first paragraph of the run's description in MLflow


class Point(NamedTuple):
    """One measured value; inf and nan are kept as measured."""

    key: str
    step: int  # optimizer steps
    value: float
    time: int  # ms since 1970


@dataclass
class RunHistory:
    """Everything in a journal."""

    key: str = ""  # names this run in any MLflow server; empty before the first record
    name: str = ""
    experiment: str = ""
    description: str = ""
    started: int = 0  # ms since 1970
    starts: list[int] = field(default_factory=list)  # ms since 1970; the first, and each that went on
    ended: int | None = None  # ms since 1970; None while the run is going on
    status: Status = "running"
    reason: str = ""  # why it ended so, where that is known
    notes: deque[str] = field(default_factory=lambda: deque(maxlen=NOTES))  # the newest warnings
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    dataset: DatasetInfo | None = None
    points: list[Point] = field(default_factory=list)  # in the order they were logged
    seconds: float = 0.0  # from each start to the last record before the next, all starts together
    _last: int | None = None  # ms since 1970; time of the last record

    def _add(self, record: dict[str, Any]) -> None:
        # Nobody trained between an end, or the last record before a kill, and the next start.
        if self.status == "running" and self._last is not None and not record.get("idle"):
            self.seconds += max(0, record["time"] - self._last) / 1000
        self._last = record["time"]
        match record["kind"]:
            case "start":
                self.key, self.name, self.experiment = record["key"], record["name"], record["experiment"]
                self.description = record.get("description", "")
                self.started, self.params = record["time"], record["params"]
                self.starts.append(record["time"])
                self.tags.update(record["tags"])
                self.dataset = DatasetInfo(**record["dataset"])
            case "resume":
                self.status, self.ended, self.reason = "running", None, ""
                self.starts.append(record["time"])
                self.tags.update(record["tags"])
            case "metrics":
                self.points += (
                    Point(key, record["step"], float(value), record["time"])
                    for key, value in record["values"].items()
                )
            case "end":
                self.status, self.ended = record["status"], record["time"]
                self.reason = record.get("reason", "")
            case "note":
                self.notes.append(record["text"])


class Tail:
    """Follows a journal while it is written, also past a truncation."""

    def __init__(self, folder: Path) -> None:
        """Follow the journal of the run in `folder`; it need not be there yet."""
        self._path = folder / JOURNAL
        self._file: int | None = None  # kept open: its inode cannot be given to a new journal
        self._offset = 0  # bytes that were read
        self.history = RunHistory()

    def read(self) -> RunHistory:
        """The history up to now. After a truncation it is a new object.

        Raises: TrackingError if the journal is damaged in the middle, or cannot be read.
        """
        for offset, line in self._new_lines():
            try:
                if not is_record(line):
                    raise ValueError
                self.history._add(parse_json(line))
            except (ValueError, LookupError, TypeError, AttributeError):
                raise TrackingError(
                    f"{self._path} is damaged: the line at byte {offset} is no record; "
                    "remove that line to go on without it"
                ) from None
        return self.history

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _new_lines(self) -> Iterator[tuple[int, bytes]]:
        try:
            data = self._new_bytes()
        except FileNotFoundError:
            return
        except OSError as error:
            raise TrackingError(
                f"{self._path} cannot be read: {error.strerror or error}; look at its disk and its owner"
            ) from None
        for line in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
            yield self._offset, line
            self._offset += len(line)

    def _new_bytes(self) -> bytes:
        now = self._path.stat()
        if not stat.S_ISREG(now.st_mode):  # the opening of a pipe would wait for ever
            raise OSError(errno.EINVAL, "it is not a regular file")
        if self._file is None or os.fstat(self._file).st_ino != now.st_ino or now.st_size < self._offset:
            self.close()
            self._file, self._offset = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC), 0
            self.history = RunHistory()
        return os.pread(self._file, os.fstat(self._file).st_size - self._offset, self._offset)


def read_journal(folder: Path, *, empty: bool = False) -> RunHistory:
    """Everything in the journal of the run in `folder`.

    Args:
        folder: the run folder.
        empty: whether to return an empty history instead of an error where there is no run yet.

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


def is_record(line: bytes) -> bool:
    """Whether `line` is a whole record: JSON with a kind, and an end of line."""
    try:
        return line.endswith(b"\n") and "kind" in parse_json(line)
    except (ValueError, TypeError):
        return False
