"""Time and money that a run has taken, and an estimate of what it will take."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Mapping
from statistics import median

from trainer import metrics

WINDOW = 200  # newest values, whose median counts
FINAL_EVALUATIONS = 2  # after the last epoch: in fp32, and of the model that was saved


class Eta:
    """Time and money of all starts of a run together, and an estimate of the rest from its median throughput."""

    def __init__(
        self,
        *,
        elapsed: float,
        price: float | None,
        total_steps: int,
        images_per_step: int,
        epochs: int,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Start the clock.

        Args:
            elapsed: seconds that earlier starts of the run took.
            price: price of this machine per hour in US dollars; None: not known.
            total_steps: optimizer steps of the whole run.
            images_per_step: images of one optimizer step, all processes together.
            epochs: epochs of the whole run; each ends with an evaluation.
            clock: a clock in seconds.
        """
        self.total_steps, self.epochs = total_steps, epochs
        self.steps_per_epoch = total_steps // epochs
        self._price, self._images = price, images_per_step
        self._clock, self._begun = clock, clock() - elapsed
        self._throughputs: deque[float] = deque(maxlen=WINDOW)
        self._evaluations: deque[float] = deque(maxlen=WINDOW)
        self._starting = True  # the first value holds the start-up
        self._end: float | None = None  # by the clock

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Take in metrics that were measured after `step` steps."""
        if metrics.THROUGHPUT in values:
            if not self._starting:
                self._throughputs.append(values[metrics.THROUGHPUT])
            self._starting = False
        if metrics.EVALUATION_SECONDS in values:
            self._evaluations.append(values[metrics.EVALUATION_SECONDS])
        if self._throughputs:
            left = self.total_steps - step
            evaluations = self.epochs * left / self.total_steps + FINAL_EVALUATIONS
            each = median(self._evaluations) if self._evaluations else 0.0
            self._end = self._clock() + left * self._images / median(self._throughputs) + evaluations * each

    def __str__(self) -> str:
        """As in "12:34 of about 5:10:00, $0.12 of about $3.04"; without the estimate until there is one."""
        now = self._clock()
        spent = now - self._begun
        whole = None if self._end is None else max(self._end, now) - self._begun
        said = _clock(spent) + (f" of about {_clock(whole)}" if whole else "")
        if self._price:
            said += f", {_dollars(spent, self._price)}"
            said += f" of about {_dollars(whole, self._price)}" if whole else ""
        return said


def _dollars(seconds: float, price: float) -> str:
    """Price of `seconds` at `price` dollars per hour."""
    return f"${seconds / 3600 * price:,.2f}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
