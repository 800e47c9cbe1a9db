"""Rounds of measurements whose ratios can be trusted on a machine that others use too.

Throughput drifts by tens of percent within minutes: other tenants, clock frequencies, page cache. So whatever is
compared is measured once in every round, and a ratio is taken within each round.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from statistics import median


def rotate(names: Iterable[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Number of the round, from 0, and name: each name once a round, each round beginning with the next name."""
    order = list(names)
    for number in range(rounds):
        first = number % len(order)
        for name in order[first:] + order[:first]:
            yield number, name


def median_ratio(values: Iterable[float], reference: Iterable[float]) -> float:
    """Median over the rounds of a value divided by the reference's value in the same round."""
    return median(value / other for value, other in zip(values, reference, strict=True))
