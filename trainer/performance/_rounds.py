"""Contenders that take turns, so that all meet the machine in the same moods."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from statistics import median


def in_rotation(names: Iterable[str], rounds: int) -> Iterator[tuple[int, str]]:
    """Each round's number, from 0, and each name; every round begins with another."""
    order = list(names)
    for turn in range(rounds):
        first = turn % len(order)
        for name in order[first:] + order[:first]:
            yield turn, name


def ratio(ours: Iterable[float], theirs: Iterable[float]) -> float:
    """How many times theirs ours is: the median over rounds, since neighbours in time share the machine's mood."""
    return median(a / b for a, b in zip(ours, theirs, strict=True))
