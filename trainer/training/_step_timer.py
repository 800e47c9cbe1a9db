"""Where the time of the steps goes, as the device sees it."""

from __future__ import annotations

import time
from collections import defaultdict

import torch


class StepTimer:
    """Seconds between marks, by the name of the later one, since the last `read`.

    On a GPU a mark is an event in its stream, so the host does not wait: its time is when the GPU reaches it.
    An event costs some microseconds. On the CPU a mark is the time.
    """

    def __init__(self, device: torch.device) -> None:
        self._on_gpu = device.type == "cuda"
        self._marks: list[tuple[str | None, torch.cuda.Event | float]] = []
        self._free: list[torch.cuda.Event] = []

    def begin(self) -> None:
        """Mark a beginning: the time since the mark before belongs to no phase."""
        self._marks.append((None, self._now()))

    def mark(self, name: str) -> None:
        """Mark the end of a phase, which began with the mark before."""
        self._marks.append((name, self._now()))

    def read(self) -> dict[str, float]:
        """Seconds by phase; the device must have reached the last mark."""
        seconds: dict[str, float] = defaultdict(float)
        for (_, begun), (name, ended) in zip(self._marks, self._marks[1:], strict=False):
            if name is None:
                continue
            if isinstance(begun, float):
                seconds[name] += ended - begun  # type: ignore[operator]
            else:
                seconds[name] += begun.elapsed_time(ended) / 1000  # type: ignore[arg-type]
        self._free += [mark for _, mark in self._marks if not isinstance(mark, float)]
        self._marks = []
        return dict(seconds)

    def _now(self) -> torch.cuda.Event | float:
        if not self._on_gpu:
            return time.perf_counter()
        event = self._free.pop() if self._free else torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        event.record()
        return event
