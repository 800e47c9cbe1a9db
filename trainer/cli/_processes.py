"""One command in several processes, one for each GPU."""

from __future__ import annotations

import os
import signal
import sys

from torch.distributed import run as torchrun
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

from trainer.distributed import TIMEOUT
from trainer.errors import Stopped, TrainerError

SHUTDOWN_SECONDS = 90  # how long a process has to stop when it is asked to
KILLED = 128 + signal.SIGTERM  # asked to stop, or had to be killed: what a shell says of that


def run_in_processes(processes: int, timeout: float = TIMEOUT) -> int:
    """Run this very command in `processes` processes under torchrun.

    torchrun itself answers any failure with a traceback and exit code 1, which would hide whether
    the input was wrong (2) or the run was stopped and can go on (75).

    Returns: the exit code of the process that failed first; KILLED if this one was asked to stop.
    """
    # torchrun would say at length that it sets this to 1.
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, len(os.sched_getaffinity(0)) // processes)))
    # Stopping takes seconds. Who has not stopped after this is killed, before Docker kills all (120 s).
    shutdown = f"--shutdown-timeout={max(10, min(SHUTDOWN_SECONDS, int(timeout)))}"
    signals = "--signals-to-handle=SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1"
    arguments = ["--standalone", f"--nproc-per-node={processes}", shutdown, signals]
    try:
        torchrun.run(torchrun.parse_args([*arguments, "-m", "trainer", *sys.argv[1:]]))  # type: ignore[no-untyped-call]
    except ChildFailedError as error:
        codes = [failure.exitcode for failure in error.failures.values()]
        # One that had a reason to end says more than those that missed it.
        told = [code for code in codes if code in (TrainerError.exit_code, Stopped.exit_code)]
        return told[0] if told else error.get_first_failure()[1].exitcode
    except SignalException:
        return KILLED
    return 0
