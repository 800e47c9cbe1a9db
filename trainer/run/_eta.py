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
            price: price of all machines together per hour in US dollars; None: not known.
            total_steps: optimizer steps of the whole run.
            images_per_step: images of one optimizer step, all processes together.
            epochs: epochs of the whole run; each ends with an evaluation.
            clock: a clock in seconds.
        """
        self.total_steps, self.epochs = total_steps, epochs
        self.steps_per_epoch = total_steps // epochs
        self.images_per_step, self.clock = images_per_step, clock
        self._price, self._begun = price, clock() - elapsed
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
            self._end = (
                self.clock() + left * self.images_per_step / median(self._throughputs) + evaluations * each
            )

    def times(self) -> str:
        """As in "12:34/52:10", or "12:17/80:26 h" in hours; without the estimate until there is one."""
        spent, whole = self._seconds()
        in_hours = max(spent, whole or 0.0) >= 3600
        texts = [_minutes(seconds, in_hours) for seconds in (spent, whole) if seconds is not None]
        return "/".join(texts) + (" h" if in_hours else "")

    def costs(self) -> str:
        """As in "$6.46/$42.31"; empty if the price is not known."""
        price = self._price
        if not price:
            return ""
        return "/".join(dollars(seconds, price) for seconds in self._seconds() if seconds is not None)

    def __str__(self) -> str:
        """Both."""
        return f"{self.times()} {self.costs()}".strip()

    def _seconds(self) -> tuple[float, float | None]:
        """What was spent, and the whole run if that can be told."""
        now = self.clock()
        return now - self._begun, None if self._end is None else max(self._end, now) - self._begun


def dollars(seconds: float, price: float) -> str:
    """Price of `seconds` at `price` dollars per hour."""
    return f"${seconds / 3600 * price:,.2f}"


def duration(seconds: float) -> str:
    """As in "7:23", or "12:17 h" from an hour on."""
    in_hours = seconds >= 3600
    return _minutes(seconds, in_hours) + (" h" if in_hours else "")


def _minutes(seconds: float, in_hours: bool) -> str:
    large, small = divmod(int(seconds) // 60 if in_hours else int(seconds), 60)
    return f"{large}:{small:02}"
