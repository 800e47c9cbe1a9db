"""The resume log: which images a preparation has written, so that an interrupted one goes on where it was.

It is `.preparing/resume-log.tsv` in the data set's folder, one line an image or skipped file. A line may be there
although its image never reached the disk (a power cut), so images after the last `#durable` line are read again.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import zlib
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

from trainer.dataset._archive_files import archive_size
from trainer.dataset._changes import Changes
from trainer.dataset._ignored import IgnoredCount
from trainer.dataset._images import Resize
from trainer.dataset._manifest import (
    SPLITS,
    UNFINISHED,
    ImageRecord,
    Skipped,
    describe_options,
)
from trainer.dataset._names import several
from trainer.dataset._source import Source, SourceImage
from trainer.errors import DataError
from trainer.files import file_lock, parse_json, read_json, read_regular, write_json

LOG = "resume-log.tsv"
IDENTITY = "identity.json"  # what is being prepared: another preparation must not go on with this log
SYNC_INTERVAL = (
    2**30
)  # bytes between two syncs of the disk; at most so much is read again after an interruption
RESERVE = 2**17  # bytes held back on the disk, for the log when the disk is full


class ResumeLog:
    """Images that have been written and files that were skipped, in memory and on disk.

    A context manager, which locks the preparation, reads the log of an earlier call and removes what is not in it.
    """

    def __init__(
        self,
        source: Source,
        out: Path,
        options: Mapping[str, Any],
        changes: Changes | None = None,
    ) -> None:
        """Know `out` as the folder of a preparation.

        Args:
            source: what is prepared.
            out: the data set's folder.
            options: all that decide the result.
            changes: of the complete data set in `out`; None if there is none. Other files in it may be the user's and
                are left alone.
        """
        self._out, self._folder = out, out / UNFINISHED
        self._reserve = self._folder / "reserve"
        self._in_place = source.in_place
        self._identity = {
            "name": source.name,
            "options": dict(options),
            "archives": {one.name: archive_size(one) for one in source.archives} | dict(source.shards),
        }
        self.images: dict[str, ImageRecord] = {}  # by path
        self.skipped: list[Skipped] = []
        self.parts: dict[str, list[IgnoredCount]] = {}  # what each part ignored of which all is written
        self.of_parts: set[str] = set()  # paths of the images and skipped files of these parts
        self.fresh = changes is None  # there is no complete data set
        if changes is not None:
            self.images = {image.path: image for image in changes.kept}
            self.skipped = list(changes.skipped)
        self.resumed = 0  # images that an earlier call had written

    def __enter__(self) -> ResumeLog:
        self._folder.mkdir(exist_ok=True)
        held = DataError(f"another `trainer prepare` is at work in {self._out}; wait until it ends")
        with ExitStack() as opened:
            opened.enter_context(file_lock(self._folder / "lock", timeout=0, otherwise=held))
            self._check_identity()
            self._file = os.open(self._folder / LOG, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            opened.callback(os.close, self._file)
            self._reserve.write_bytes(bytes(RESERVE))
            self._syncer = opened.enter_context(ThreadPoolExecutor(1, thread_name_prefix="sync-disk"))
            self._sync: Future[None] | None = None
            self._sync_offset = 0  # in the log, when that sync was begun
            self._unsynced = 0  # bytes of images written since
            self._read()
            self._opened = opened.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._opened.close()
        if (
            self._in_place and kind is not KeyboardInterrupt
        ):  # reading it again is quick, and the folder is not ours
            shutil.rmtree(self._folder, ignore_errors=True)

    def add(self, written: Iterable[ImageRecord | Skipped]) -> None:
        """Append images that were written and files that were skipped.

        Raises: OSError if the disk is full and the reserve is used up.
        """
        lines = []
        for record in written:
            if isinstance(record, Skipped):  # a library's words may have several lines
                record = Skipped(record.path, " ".join(record.reason.split()))
            self._remember(record)
            fields = record if isinstance(record, ImageRecord) else ("-", *record)
            lines.append("\t".join(map(str, fields)) + "\n")
            self._unsynced += record.bytes if isinstance(record, ImageRecord) else 0
        self._append("".join(lines))
        self._sync_when_due()

    def end_part(self, name: str, ignored: Iterable[IgnoredCount]) -> None:
        """All of a part is written. `ignored`: what it held beside images."""
        self._append(f"#part\t{name}\t{json.dumps(list(ignored))}\n")

    def has(self, image: SourceImage, resize: Resize | None) -> bool:
        """Whether the image is written already. A user's own file may have changed since."""
        known = self.images.get(image.path)
        if known and not resize and known.bytes != image.size:
            self.forget([image.path])
            return False
        return known is not None

    def forget(self, paths: Iterable[str]) -> None:
        """Drop images that the source no longer has."""
        for path in paths:
            del self.images[path]
            if not self._in_place:
                (self._out / path).unlink()

    def _append(self, lines: str) -> None:
        data = lines.encode("utf-8", "surrogatepass")  # whatever stands for bytes that are no text
        size = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, data)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            written = 0
        if written < len(data):
            # The disk is full, and the images that were written must be in the log all the same.
            os.ftruncate(self._file, size)
            self._reserve.unlink(missing_ok=True)
            if os.write(self._file, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder))

    def _remember(self, record: ImageRecord | Skipped) -> None:
        if isinstance(record, ImageRecord):
            self.images[record.path] = record
        else:
            self.skipped.append(record)

    def _sync_when_due(self) -> None:
        """Every `SYNC_INTERVAL` bytes, sync the disk in the background; log when a power cut can no longer undo it."""
        if self._sync and self._sync.done():
            self._append(f"#durable\t{self._sync_offset}\n")
            self._sync = None
        if self._unsynced >= SYNC_INTERVAL and not self._sync and not self._in_place:
            self._sync_offset, self._unsynced = os.fstat(self._file).st_size, 0
            self._sync = self._syncer.submit(os.sync)

    def _check_identity(self) -> None:
        path = self._folder / IDENTITY
        try:
            before = read_json(path)
        except (FileNotFoundError, ValueError):
            before = None
        if not isinstance(before, dict) or not before.keys() >= self._identity.keys():
            # Nobody knows what a log that may be there is of, so all is written again.
            (self._folder / LOG).unlink(missing_ok=True)
            write_json(path, self._identity)
            return
        if before != self._identity:
            raise DataError(
                f"a preparation of {before['name']} ({describe_options(before['options'])}, from "
                f"{several(before['archives']) or 'a folder'}) was begun in {self._out} and has not ended; "
                "repeat it with the same archives and options, or give another folder with --out"
            )

    def _read(self) -> None:
        """Read the log of an earlier call, verify images that may not have reached the disk, remove other files."""
        if not self.fresh:
            os.ftruncate(self._file, 0)
            return
        content = os.pread(self._file, os.fstat(self._file).st_size, 0)
        content = content[: content.rfind(b"\n") + 1]
        os.ftruncate(self._file, len(content))
        durable = offset = 0
        logged: list[tuple[int, ImageRecord]] = []
        parts: list[tuple[int, _EndOfPart, set[str]]] = []
        paths: set[str] = set()  # since the end of a part
        for line in content.splitlines(keepends=True):
            try:
                record = _record(line, in_place=self._in_place)
            except ValueError:  # a power cut may leave zeros: what was written from here on is written again
                os.ftruncate(self._file, offset)
                break
            if isinstance(record, int):
                durable = record
            elif isinstance(record, _EndOfPart):
                parts.append((offset, record, paths))
                paths = set()
            else:
                self._remember(record)
                paths.add(record.path)
                if isinstance(record, ImageRecord):
                    logged.append((offset, record))
            offset += len(line)
        if not self._in_place:
            lost = [image for at, image in logged if at >= durable and not _is_intact(self._out, image)]
            for image in lost:
                del self.images[image.path]
            for at, part, paths in parts:
                if at < durable or not lost:
                    self.parts[part.name] = part.ignored
                    self.of_parts |= paths
            self._remove_unlogged_files()
        self.resumed = len(self.images)

    def _remove_unlogged_files(self) -> None:
        for split in SPLITS:
            for folder, _, names in os.walk(self._out / split):
                below = os.path.relpath(folder, self._out)
                for name in names:
                    if f"{below}/{name}" not in self.images:
                        os.unlink(os.path.join(folder, name))


def _is_intact(out: Path, image: ImageRecord) -> bool:
    try:
        data = read_regular(out / image.path)
    except OSError:
        return False
    return len(data) == image.bytes and zlib.crc32(data) == image.crc32


class _EndOfPart(NamedTuple):
    """A line of the log: all of a part is written."""

    name: str
    ignored: list[IgnoredCount]


def _record(line: bytes, *, in_place: bool) -> ImageRecord | Skipped | _EndOfPart | int:
    """What a line of the log says; of a `#durable` line its offset. Raises: ValueError if it is none of the log's."""
    kind, *fields = line[:-1].decode("utf-8", "surrogatepass").split("\t")
    if kind == "#durable":
        return int("".join(fields))
    if kind == "#part":
        name, ignored = fields
        try:
            return _EndOfPart(name, [IgnoredCount(*one) for one in parse_json(ignored)])
        except TypeError as error:
            raise ValueError from error
    if kind == "-":
        path, reason = fields
        return Skipped(path, reason)
    class_id, path, *numbers = fields
    if kind not in SPLITS or len(numbers) != 4 or ".." in path.split("/"):
        raise ValueError
    if not in_place and not path.startswith(f"{kind}/"):  # it may be removed
        raise ValueError
    return ImageRecord(kind, class_id, path, *map(int, numbers))
