"""A run folder in use: one process at a time, its messages in the journal, and its end noted."""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from trainer.errors import Stopped, TrackingError, TrainerError
from trainer.files import file_lock
from trainer.tracking import Journal, JournalHandler, RunLog, redact

LOCK = "train.lock"  # in the run folder; held by the process that trains
LOCK_SECONDS = 10  # that a process of the same run, on its way to its end, may still take
REASON = 500  # characters of why a run ended
OF_A_DISK = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.ENAMETOOLONG,
    errno.ENOENT,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
    errno.ESTALE,
    errno.EEXIST,
    errno.EISDIR,
    errno.ELOOP,
}


@contextmanager
def exclusive_run_dir(folder: Path) -> Iterator[Journal]:
    """The journal of the run in `folder`, which no other process can open; warnings are noted in it.

    Raises: TrackingError if another process trains this run, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = TrackingError(
            f"{folder} is being trained by another process; wait for it, or start another run with --name"
        )
        with file_lock(folder / LOCK, timeout=LOCK_SECONDS, otherwise=taken):
            journal = Journal(folder)
            logger = logging.getLogger("trainer")
            handlers: list[logging.Handler] = [JournalHandler(journal)]
            if not logger.hasHandlers() and logging.lastResort:
                # Where nobody has set up logging, as in a notebook, warnings are still printed.
                handlers.append(logging.lastResort)
            for handler in handlers:
                logger.addHandler(handler)
            try:
                yield journal
            finally:
                for handler in handlers:
                    logger.removeHandler(handler)
    except OSError as error:
        if error.errno not in OF_A_DISK:
            raise
        raise TrackingError(
            f"the run folder {folder} cannot be written: {error.strerror}; mend that, or choose another with --runs, "
            "and start again to go on"
        ) from None


@contextmanager
def record_exit_status(log: RunLog) -> Iterator[None]:
    """Note in the journal how the run ended if it ends in this context."""
    try:
        yield
    except (Stopped, KeyboardInterrupt) as error:
        log.finish("interrupted", _sentence(error) if isinstance(error, Stopped) else "stopped on request")
        raise
    except BaseException as error:
        with suppress(OSError):  # a disk that is gone must not hide what went wrong
            log.finish("failed", _sentence(error))
        raise


def _sentence(error: BaseException) -> str:
    """What the user sees of it on the terminal, on one line and without passwords."""
    text = " ".join(str(error).split())
    named = text if isinstance(error, TrainerError) else f"{type(error).__name__}: {text}"
    return redact(named)[:REASON]
