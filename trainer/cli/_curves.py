"""A run's course below its line on a terminal: loss and accuracy as small curves, and what may hold the GPU up."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from trainer import metrics

BLOCKS = "▁▂▃▄▅▆▇█"
CURVE = (8, 24)  # columns at least and at most
GAP = "  "
KEPT = 240  # values of a curve; then two become one


class Curves:
    """Training loss and validation top-1 from the beginning of the run, data wait, GPU utilization."""

    def __init__(self, gpu_utilization: Callable[[], float | None] = lambda: None) -> None:
        """Nothing is measured yet. `gpu_utilization`: share of time in 0..1; None if there is no GPU."""
        self._loss, self._top1 = Curve(), Curve()
        self._data_wait: float | None = None
        self._gpu_utilization = gpu_utilization

    def measured(self, values: Mapping[str, float]) -> None:
        """Take in metrics."""
        if metrics.TRAIN_LOSS in values:
            self._loss.add(values[metrics.TRAIN_LOSS])
        if metrics.VAL_TOP1 in values:
            self._top1.add(values[metrics.VAL_TOP1])
        self._data_wait = values.get(metrics.DATA_WAIT, self._data_wait)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw them, never wider than the terminal; nothing before the second value of a curve."""
        shown = [
            (name, curve)
            for name, curve in (("loss", self._loss), ("top-1", self._top1))
            if len(curve.values) > 1
        ]
        if not shown:
            return
        shares = []
        if (utilization := self._gpu_utilization()) is not None:
            shares.append(f"GPU {utilization:.0%}")
        if self._data_wait is not None:
            shares.append(f"waiting for data {self._data_wait:.0%}")
        while (columns := _columns(shown, shares, options.max_width)) < CURVE[0]:
            if shares:
                shares.pop()
            elif len(shown) > 1:
                shown.pop()
            else:
                return
        curves = [f"{name} {curve.drawn(min(columns, CURVE[1]))}" for name, curve in shown]
        yield Text(GAP.join([*curves, *shares]), end="")


def _columns(shown: Sequence[tuple[str, Curve]], shares: Sequence[str], width: int) -> int:
    """Columns that are left for each curve."""
    names = sum(len(name) + 1 for name, _ in shown)
    gaps = len(GAP) * (len(shown) + len(shares) - 1)
    return (width - names - gaps - sum(map(len, shares))) // len(shown)


class Curve:
    """Values in the order of time; of many, neighbours become their mean."""

    def __init__(self) -> None:
        self.values: list[float] = []
        self._each, self._waiting = 1, list[float]()  # so many values make one

    def add(self, value: float) -> None:
        """Append a value; inf and nan are left out."""
        if not math.isfinite(value):
            return
        self._waiting.append(value)
        if len(self._waiting) < self._each:
            return
        self.values += _means(self._waiting, 1)
        self._waiting.clear()
        if len(self.values) == KEPT:
            self.values = list(_means(self.values, KEPT // 2))
            self._each *= 2

    def drawn(self, columns: int) -> str:
        """One character a column, from the lowest value to the highest."""
        return drawn(self.values, columns)


def drawn(values: Sequence[float], columns: int, low: float | None = None, high: float | None = None) -> str:
    """One character a column at most, from `low` to `high`; by default from the lowest value to the highest."""
    if not values:
        return ""
    means = list(_means(values, min(columns, len(values))))
    low, high = min(means) if low is None else low, max(means) if high is None else high
    if not 0 < high - low < math.inf:  # no difference, or the numbers of a run that diverges
        return BLOCKS[0] * len(means)
    return "".join(BLOCKS[round((mean - low) / (high - low) * (len(BLOCKS) - 1))] for mean in means)


def _means(values: Sequence[float], count: int) -> Iterable[float]:
    """Means of `count` parts of `values`, at least as many, in order."""
    bounds = [len(values) * part // count for part in range(count + 1)]
    for begin, end in pairwise(bounds):
        yield sum(value / (end - begin) for value in values[begin:end])  # a sum first may be infinite
