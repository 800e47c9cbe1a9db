"""One command in several processes, one a GPU, started again after crashes."""

from __future__ import annotations

import logging
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Sequence
from pathlib import Path

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from trainer import ranks
from trainer.checkpoint import list_checkpoints
from trainer.dataloader import culprit_of
from trainer.errors import ProcessesFailed, ProcessLost, Stopped, TrainerError
from trainer.processes import MAIN, safe_path
from trainer.supervisor import OF_ITS_OWN
from trainer.tracking import read_journal

SHUTDOWN_SECONDS = 90  # that a process has to stop when it is asked to
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)
KILLED = 128 + signal.SIGTERM  # asked to stop, or had to be killed: what a shell says of that

logger = logging.getLogger(__name__)


def launch_until_done(
    command: Sequence[str], processes: int, folder: Path, *, result: Path, max_restarts: int, timeout: float
) -> None:
    """Run `trainer COMMAND` in `processes` processes; after a crash again, from the newest checkpoint.

    torchrun's own --max-restarts would start on the same wrong input again.

    Args:
        command: arguments of `trainer`.
        processes: on this machine.
        folder: the run folder; a new checkpoint in it is progress.
        result: the file that they leave when all is done.
        max_restarts: after crashes without progress in between.
        timeout: seconds that the processes wait for each other.

    Raises: ProcessesFailed with the exit code, if it is not 0; DataError and ProcessLost as `launch`.
    """
    left = max_restarts
    while True:
        before = list_checkpoints(folder / "checkpoints")[:1]
        code = launch(command, processes, result=result, timeout=timeout)
        if code == 0:
            return
        if code == KILLED:
            history = read_journal(folder, empty=True)
            # Trained and being registered, or not begun: nothing is lost either.
            if history.status in ("interrupted", "finished") or not history.key:
                code = Stopped.exit_code
        if code in (TrainerError.exit_code, Stopped.exit_code, KILLED):
            raise ProcessesFailed(code)
        if list_checkpoints(folder / "checkpoints")[:1] != before:
            left = max_restarts
        if left == 0:
            logger.error("the processes ended too often without progress; giving up")
            raise ProcessesFailed(code)
        left -= 1
        logger.warning("a process ended (%s); all are started again from the last checkpoint", _cause(code))


def launch(command: Sequence[str], processes: int, *, result: Path, timeout: float) -> int:
    """Run `trainer COMMAND` in `processes` processes under torchrun.

    torchrun itself answers any failure with a traceback and exit code 1, which would hide whether
    the input was wrong (2) or the run was stopped and can go on (75).

    Args:
        command: arguments of `trainer`.
        processes: on this machine.
        result: the file that the processes leave when all is done.
        timeout: seconds that they wait for each other.

    Returns: the exit code of the process that failed first; KILLED if this one was asked to stop.
    Raises: DataError naming the image of which a process has died by a signal; ProcessLost if all ended with 0 and
        left no result: exit codes say nothing of what was run.
    """
    result.unlink(missing_ok=True)  # a damaged one, for a sound one would have been believed
    with tempfile.TemporaryDirectory(prefix="trainer-", ignore_cleanup_errors=True) as notes:
        code = _launch(command, processes, timeout=timeout, notes=notes)
        if -code in OF_ITS_OWN and (culprit := culprit_of(Path(notes))):
            raise culprit
    if code == 0 and not result.exists():
        raise ProcessLost(
            f"the processes of `trainer {command[0]}` ended with exit code 0 but without a result, {result.name}; "
            "start the same command again"
        )
    return code


def _launch(command: Sequence[str], processes: int, *, timeout: float, notes: str) -> int:
    # Stopping takes seconds. Who has not stopped after this is killed, before Docker kills all (120 s).
    shutdown = f"--shutdown-timeout={max(10, min(SHUTDOWN_SECONDS, int(timeout)))}"
    signals = f"--signals-to-handle={','.join(number.name for number in SIGNALS)}"
    arguments = ["--standalone", f"--nproc-per-node={processes}", shutdown, signals]
    before = dict(os.environ)
    os.environ |= {ranks.LAUNCHED: "1", ranks.IN_HAND: notes, **safe_path(), "PYTHON_EXEC": sys.executable}
    # torchrun would say at length that it sets this to 1.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    in_main = threading.current_thread() is threading.main_thread()
    handlers = {number: signal.getsignal(number) for number in SIGNALS if in_main}
    try:
        torchrun.run(torchrun.parse_args([*arguments, str(MAIN), *command]))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        # One that had a reason to end says more than those that missed it.
        reasons = [code for code in codes if code in (TrainerError.exit_code, Stopped.exit_code)]
        reasons += [code for code in codes if -code in OF_ITS_OWN]
        return reasons[0] if reasons else error.get_first_failure()[1].exitcode
    except SignalException:
        return KILLED
    finally:  # torchrun leaves its own handlers and variables to whoever called it
        os.environ.clear()
        os.environ.update(before)
        for number, handler in handlers.items():
            signal.signal(number, handler)
    return 0


def _cause(code: int) -> str:
    if code == -signal.SIGKILL:
        return "signal SIGKILL, which Linux sends where memory is short; in Compose TRAINER_MEMORY in .env gives more"
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
