"""A child process that works in the background of a run, and outlives it by little."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from trainer import ranks
from trainer.processes import child_command, safe_path

PARENT = "TRAINER_PARENT"  # in the child's environment: process id of the trainer
POLL = 1.0  # seconds between two looks at the parent
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")

_DETACHED: list[subprocess.Popen[bytes]] = []  # kept, for Python warns of children that nobody waits for


class BackgroundChild:
    """`trainer ARGUMENTS` as a child process, with one thread, or all, and no rank.

    It survives a ^C on the terminal; what it does at the end of its parent is up to it (`Parent`).
    """

    def __init__(
        self, arguments: Sequence[str], log: Path, *, all_cores: bool = False, talk: bool = False
    ) -> None:
        """Start the child.

        Args:
            arguments: command and arguments of `trainer`.
            log: file to which its standard output and error are appended.
            all_cores: let it compute with more than one thread, as when training is over.
            talk: make pipes of its standard input and output, `input` and `output`.
        """
        threads = {} if all_cores else dict.fromkeys(THREADS, "1")
        env = {name: value for name, value in os.environ.items() if name not in ranks.OURS}
        with log.open("ab") as file:
            self._process = subprocess.Popen(
                child_command(*arguments),
                stdin=subprocess.PIPE if talk else subprocess.DEVNULL,
                stdout=subprocess.PIPE if talk else file,
                stderr=file,
                start_new_session=True,
                env={**env, **safe_path(), **threads, PARENT: str(os.getpid())},
            )
        self.pid = self._process.pid
        self.input, self.output = self._process.stdin, self._process.stdout

    def wait(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for its end: whether it has ended well."""
        try:
            return self._process.wait(timeout) == 0
        except subprocess.TimeoutExpired:
            return False

    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._process.poll() is None

    def close(self) -> None:
        """Close its pipes; where it is still running, not the one that it may be read from at this moment."""
        for pipe in (self.input, self.output):
            with suppress(OSError):  # nobody reads it any more
                if pipe and not (pipe is self.output and self.is_running()):
                    pipe.close()

    def detach(self) -> None:
        """Let it go on alone, without a warning at this process's end."""
        _DETACHED.append(self._process)


class Parent:
    """The trainer that started this process in its background, as the child sees it; nobody, if a user did."""

    def __init__(self) -> None:
        """Look into the environment, and give way to the parent."""
        self._pid = int(os.environ.get(PARENT) or 0)
        if self._pid:
            # Whoever signals a whole job means the trainer; this process ends after it.
            for name in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
                signal.signal(name, signal.SIG_IGN)
            os.nice(5)  # the trainer's data loading comes first

    def is_gone(self) -> bool:
        """Whether there was a parent and it has ended."""
        return bool(self._pid) and os.getppid() != self._pid

    def sleep(self, seconds: float) -> None:
        """Sleep, but not past the parent's end; the full time if that is over."""
        end, was_gone = time.monotonic() + seconds, self.is_gone()
        while (left := end - time.monotonic()) > 0 and self.is_gone() == was_gone:
            time.sleep(min(left, POLL))
