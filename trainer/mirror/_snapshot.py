"""What of a run folder goes up: files as they are at one moment, while the trainer goes on writing."""

from __future__ import annotations

import io
import os
import re
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from trainer.errors import MirrorError
from trainer.files import follow, parse_json, read_regular
from trainer.mirror._store import digest_of

STATE = "mirror.json"  # in the run folder: how far its mirror is
JOURNAL, RESULT, REGISTERED = "journal.jsonl", "result.json", "registered.json"
AT_THE_END = ("model", "bundle", "report")  # folders that are complete when the run has its result
SUFFIXES, MOST = (
    (".json", ".txt", ".npz"),
    2**26,
)  # of its other files, and bytes: what else is there is not its own
# As `trainer.checkpoint` names them, which brings torch: seconds, and memory that training may want.
_CHECKPOINT = re.compile(r"step-(\d{8})-([0-9a-f]{16})\.pt")


@dataclass(frozen=True)
class Local:
    """A file of the run folder, open: its bytes stay even if the trainer deletes it."""

    path: str  # in the run folder, with / between its parts
    file: BinaryIO
    bytes: int
    sha256: str  # hexadecimal


@dataclass(frozen=True)
class Snapshot:
    """A run folder at one moment."""

    files: list[Local]  # with the newest and the best checkpoint
    key: str  # of the run's journal; empty without one
    step: int  # of the newest sound checkpoint; -1: none
    saved: float  # when that was written, seconds since 1970
    best: str  # name of the best checkpoint
    finished: bool


class Digests:
    """SHA-256 of files that do not change, each computed once."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, int, int], str] = {}

    def of(self, file: BinaryIO) -> str:
        """The digest of a file on a disk."""
        status = os.fstat(file.fileno())
        identity = (status.st_ino, status.st_mtime_ns, status.st_size)
        if identity not in self._known:
            self._known[identity] = digest_of(file)
        return self._known[identity]


def newest_checkpoint(folder: Path) -> tuple[int, float]:
    """Step of the newest checkpoint in a run folder and when it was written; -1 and 0 if there is none."""
    for path in _checkpoints(folder):
        with suppress(OSError):
            return int(path.name[5:13]), path.stat().st_mtime
    return -1, 0.0


def run_key(journal: bytes) -> str:
    """The key in the first record of a journal that has one; empty if none has."""
    for line in journal.splitlines():
        with suppress(ValueError, AttributeError):
            if key := parse_json(line).get("key"):
                return str(key)
    return ""


def local_key(folder: Path) -> str:
    """The key of the run in a folder; empty if it has not begun."""
    with suppress(OSError):
        return run_key(read_regular(folder / JOURNAL))
    return ""


@contextmanager
def snapshot(folder: Path, digests: Digests) -> Iterator[Snapshot]:
    """A state of the run folder from which the run can go on.

    The checkpoint is opened before the journal is read, which then knows at least as much.

    Raises: MirrorError if a file cannot be read.
    """
    with ExitStack() as stack:
        try:
            now = _open(folder, digests, stack)
        except OSError as error:
            raise MirrorError(
                f"{error.filename or folder} cannot be read: {error.strerror or error}"
            ) from None
        yield now


def _open(folder: Path, digests: Digests, stack: ExitStack) -> Snapshot:
    """See `snapshot`. Raises: OSError."""
    files: list[Local] = []

    def add(path: Path, *, digest: str = "") -> bool:
        """Add a file, if it is there and its SHA-256 begins so."""
        try:
            file = stack.enter_context(path.open("rb"))
            sha256 = digests.of(file)
            size = os.fstat(file.fileno()).st_size
        except FileNotFoundError:  # its trainer has just deleted it
            return False
        if not sha256.startswith(digest):
            return False
        name = path.relative_to(folder).as_posix()
        if all(one.path != name for one in files):
            files.append(Local(name, file, size, sha256))
        return True

    step, saved, best = -1, 0.0, ""
    for path in _checkpoints(folder):
        if add(path, digest=path.name[14:30]):
            step, saved = int(path.name[5:13]), os.fstat(files[-1].file.fileno()).st_mtime
            break
    leads_to = follow(folder / "checkpoints" / "best.pt")
    best_path = folder / "checkpoints" / leads_to.name
    if _CHECKPOINT.fullmatch(leads_to.name) and add(best_path, digest=leads_to.name[14:30]):
        best = leads_to.name
    finished = (folder / RESULT).exists()  # asked before its files are read: it is written after them
    for path in _others(folder, finished=finished):
        add(path)
    journal = b""
    with suppress(FileNotFoundError):
        journal = read_regular(folder / JOURNAL)
        journal = journal[: journal.rfind(b"\n") + 1]  # what is behind it, is being written
        content = io.BytesIO(journal)
        files.append(Local(JOURNAL, content, len(journal), digest_of(content)))
    return Snapshot(files, run_key(journal), step, saved, best, finished)


def _others(folder: Path, *, finished: bool) -> Iterator[Path]:
    """Small files beside the journal, and what the end of a run leaves."""
    later = {STATE, REGISTERED, *(() if finished else (RESULT,))}
    with suppress(FileNotFoundError):
        for path in sorted(folder.iterdir()):
            ours = path.suffix in SUFFIXES and path.name not in later and not path.name.startswith(".")
            if ours and path.is_file() and path.stat().st_size <= MOST:
                yield path
    # The model is there, whole and proven, before it is registered.
    registered = (folder / REGISTERED).exists()
    for name in AT_THE_END if finished else AT_THE_END[:1] if registered else ():
        yield from sorted(path for path in (folder / name).rglob("*") if path.is_file())
    if registered:
        yield folder / REGISTERED


def _checkpoints(folder: Path) -> list[Path]:
    """Checkpoints, the newest first."""
    found = (folder / "checkpoints").glob("step-*.pt")
    return sorted((path for path in found if _CHECKPOINT.fullmatch(path.name)), reverse=True)
