"""Being asked to stop: noted while a run is trained, heeded at once before and after. Needs no library."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from trainer.errors import Stopped

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # USR1: what Slurm is usually told to send ahead
GRACE = 5.0  # seconds until a stop ends a process that waits in a library


class StopRequest:
    """Notes signals while in use; a second SIGINT stops at once, as Ctrl-C does.

    Python hands signals to the main thread only; in any other one, nothing but `ask` asks for a stop.
    """

    def __init__(self) -> None:
        self.made = False
        self.reason = "on request"
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> StopRequest:
        for number in SIGNALS if _in_main_thread() else ():
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def ask(self, reason: str) -> None:
        """Ask from within the program; any thread may."""
        self.reason, self.made = reason, True

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.made and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.made = True


class _StopNow(KeyboardInterrupt):
    """So that it passes all that hands on a Ctrl-C, and nothing takes it for a failure."""


@contextmanager
def stop_at_once(said: str) -> Iterator[None]:
    """End with exit code 75 on a SIGTERM or SIGUSR1 where nothing is under way that is not saved; as Ctrl-C does.

    For all of a command but its training, which has a `StopRequest` of its own: start-up, autotuning, registration.

    Args:
        said: what is kept, and how to go on.

    Raises: Stopped.
    """
    if not _in_main_thread():
        yield
        return
    asked, said = False, f"stopped on request; {said}"

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if not asked:  # another one must not hinder what the first one makes tidy up
            asked = True
            raise _StopNow

    def watch() -> None:
        # Python heeds no signal while it waits in a library, as for a process that is no more.
        with open(reader, "rb", buffering=0) as signals:
            while number := signals.read(1):
                if number[0] in before and signal.getsignal(number[0]) is stop:
                    time.sleep(GRACE)
                    if not asked:
                        os.write(2, f"trainer: {said}\n".encode())
                        os._exit(Stopped.exit_code)

    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    woken = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    before = {number: signal.signal(number, stop) for number in SIGNALS if number != signal.SIGINT}
    threading.Thread(target=watch, name="watch-signals", daemon=True).start()
    try:
        yield
    except _StopNow:
        raise Stopped(said) from None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(woken)
        os.close(writer)


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()
