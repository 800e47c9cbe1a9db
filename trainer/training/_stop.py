"""Being asked to stop by a signal, or from within the program."""

from __future__ import annotations

import signal
import threading
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)  # USR1: what Slurm is usually told to send ahead


class StopRequest:
    """Notes signals while in use; a second SIGINT stops at once, as Ctrl-C does.

    Python hands signals to the main thread only; in any other one, nothing but `ask` asks for a stop.
    """

    def __init__(self) -> None:
        self.made = False
        self.reason = "on request"
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> StopRequest:
        in_main = threading.current_thread() is threading.main_thread()
        for number in SIGNALS if in_main else ():
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
