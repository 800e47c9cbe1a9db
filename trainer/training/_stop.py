"""Being asked to stop, by a signal."""

from __future__ import annotations

import signal
from types import FrameType


class StopRequest:
    """Notes SIGTERM and SIGINT while in use; a second SIGINT stops at once, as Ctrl-C does."""

    def __init__(self) -> None:
        self.made = False
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> StopRequest:
        for number in (signal.SIGTERM, signal.SIGINT):
            self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.made and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.made = True
