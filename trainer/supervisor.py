"""A command in a process of its own, so that somebody is left to say why when a native library takes it down."""

from __future__ import annotations

import ctypes
import os
import signal
from collections.abc import Callable

HANDED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
OF_ITS_OWN = (
    signal.SIGSEGV,
    signal.SIGABRT,
    signal.SIGBUS,
    signal.SIGILL,
    signal.SIGFPE,
)  # nobody sends these
PR_SET_PDEATHSIG = 1  # prctl(2)


def supervise(command: Callable[[], int], after_crash: Callable[[], int | None]) -> int:
    """Run `command` in a forked process; hand signals on to it, and end as it ends.

    Fork before a library has started threads.

    Args:
        command: gives the exit code.
        after_crash: called when the process has died by a signal of its own; gives the exit code to end with
            instead, or None.

    Returns: the exit code, in the forked process and in this one.
    """
    watched = (*HANDED_ON, signal.SIGCHLD)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_BLOCK, watched)
    parent, child = os.getpid(), os.fork()
    if not child:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)
        return command()
    code = _wait(child, watched)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, watched)
    if code >= 0:
        return code
    if -code in OF_ITS_OWN and (instead := after_crash()) is not None:
        return instead
    if -code != signal.SIGKILL:
        signal.signal(-code, signal.SIG_DFL)
    os.kill(parent, -code)
    return 128 - code  # the first process of a container outlives this


def _wait(child: int, watched: tuple[signal.Signals, ...]) -> int:
    """Exit code of the child, or minus the signal's number."""
    while True:
        info = signal.sigwaitinfo(watched)
        if info.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status)
        elif info.si_code <= 0:  # sent by a process; what a terminal sends, both have got
            os.kill(child, info.si_signo)
