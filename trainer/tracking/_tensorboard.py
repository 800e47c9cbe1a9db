"""A run's metrics as TensorBoard's event files, beside the journal, for those who watch with TensorBoard.

    tensorboard --logdir runs

The journal stays the truth: each start writes the files anew from it, so that they have no gap and nothing twice.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import socket
import struct
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from trainer.tracking._history import Ending, Point, RunInfo, read_journal
from trainer.tracking._journal import RunLog

EVENTS = "tensorboard"  # folder of the event file in the run's

logger = logging.getLogger(__name__)


class TensorBoardLog:
    """A run's log that also goes to an event file in `FOLDER/tensorboard`; a context manager.

    Not tensorboardX's SummaryWriter: its queue blocks for ever once its thread could not write. Here each `log` is one
    write, as in the journal, and a disk that takes nothing is said once: training goes on without.
    """

    def __init__(self, log: RunLog, folder: Path) -> None:
        """Nothing is written yet.

        Args:
            log: the run's.
            folder: the run's, with its journal.
        """
        self._log, self._folder = log, folder
        self._file: int | None = None  # None: nothing is written

    def __enter__(self) -> TensorBoardLog:
        return self

    def __exit__(self, *_: object) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def start(self, info: RunInfo) -> None:
        """Pass on."""
        self._log.start(info)

    def truncate_after(self, step: int) -> None:
        """Pass on, and write what is left from the beginning."""
        self._log.truncate_after(step)
        self.__exit__()
        folder = self._folder / EVENTS
        try:
            if folder.exists():
                shutil.rmtree(folder)
            folder.mkdir()
            path = folder / f"events.out.tfevents.{int(time.time())}.{socket.gethostname()}"
            self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
        except OSError as error:
            self._give_up(error)
        self._write(read_journal(self._folder, empty=True).points, first=True)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Pass on, and write."""
        self._log.log(step, values)
        now = int(1000 * time.time())
        self._write(Point(key, step, value, now) for key, value in values.items())

    def step_done(self, step: int) -> None:
        """Pass on."""
        self._log.step_done(step)

    def flush(self) -> None:
        """Pass on."""
        self._log.flush()

    def finish(self, status: Ending, reason: str = "") -> None:
        """Pass on."""
        self._log.finish(status, reason)

    def _write(self, points: Iterable[Point], *, first: bool = False) -> None:
        if self._file is None:
            return
        from tensorboardX.proto.event_pb2 import Event
        from tensorboardX.summary import scalar

        events = [Event(wall_time=time.time(), file_version="brain.Event:2")] if first else []
        events += [
            Event(wall_time=one.time / 1000, step=one.step, summary=scalar(one.key, one.value))
            for one in points
        ]
        try:
            records = b"".join(_record(event.SerializeToString()) for event in events)
            if os.write(self._file, records) < len(records):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        self.__exit__()
        logger.warning(
            "TensorBoard's event file in %s cannot be written (%s); the run goes on without it, and its next start "
            "writes it anew",
            self._folder / EVENTS,
            error.strerror or error,
        )


def _record(data: bytes) -> bytes:
    """`data` as TFRecord frames it (tensorflow.org/tutorials/load_data/tfrecord)."""
    from tensorboardX.record_writer import masked_crc32c

    length = struct.pack("<Q", len(data))
    return length + struct.pack("<I", masked_crc32c(length)) + data + struct.pack("<I", masked_crc32c(data))
