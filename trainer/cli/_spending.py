"""Time and money of a run: what was spent, and what is still to come."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from statistics import median

from trainer import metrics

READINGS = 200  # the newest, whose median is the typical speed
MORE = 2  # evaluations after the last epoch: in fp32, and of the model that was saved


class Spending:
    """Adds up the time of all starts of a run, and estimates the rest from its typical speed."""

    def __init__(
        self,
        *,
        before: float,
        price: float | None,
        steps: int,
        images_per_step: int,
        epochs: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Start the clock.

        Args:
            before: seconds that earlier starts of the run took.
            price: of an hour of this machine, in dollars; None: not known.
            steps: of the whole run.
            images_per_step: all processes together.
            epochs: each ends with an evaluation.
            clock: seconds.
        """
        self._price, self._steps, self._images, self._epochs = price, steps, images_per_step, epochs
        self._clock, self._begun = clock, clock() - before
        self._speeds: deque[float] = deque(maxlen=READINGS)
        self._evaluations: deque[float] = deque(maxlen=READINGS)
        self._starting = True  # the first reading holds the start-up
        self._end: float | None = None  # by the clock

    def look(self, step: int, values: Mapping[str, float]) -> None:
        """Take note of what was measured after `step` steps."""
        if metrics.THROUGHPUT in values:
            if not self._starting:
                self._speeds.append(values[metrics.THROUGHPUT])
            self._starting = False
        if metrics.EVALUATION_SECONDS in values:
            self._evaluations.append(values[metrics.EVALUATION_SECONDS])
        if self._speeds:
            left = self._steps - step
            evaluations = self._epochs * left / self._steps + MORE
            each = median(self._evaluations) if self._evaluations else 0.0
            self._end = self._clock() + left * self._images / median(self._speeds) + evaluations * each

    def __str__(self) -> str:
        """As in "12:34 of about 5:10:00, $0.12 of about $3.04"; without the whole until it can be told."""
        now = self._clock()
        spent = now - self._begun
        whole = None if self._end is None else max(self._end, now) - self._begun
        said = _clock(spent) + (f" of about {_clock(whole)}" if whole else "")
        if self._price:
            said += f", {_dollars(spent, self._price)}"
            said += f" of about {_dollars(whole, self._price)}" if whole else ""
        return said


def _dollars(seconds: float, price: float) -> str:
    """What so many seconds cost at `price` an hour."""
    return f"${seconds / 3600 * price:,.2f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
