"""Rotation and ratios of what is measured side by side."""

from __future__ import annotations

from trainer.performance._rounds import median_ratio, rotate


def test_each_round_has_every_name_once_and_begins_with_the_next() -> None:
    order = list(rotate(["a", "b", "c"], 4))

    assert [number for number, _ in order] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]
    assert "".join(name for _, name in order) == "abcbcacababc"


def test_a_ratio_is_taken_within_each_round() -> None:
    """The machine was ten times slower in the second round, for both."""
    assert median_ratio([2.0, 0.2, 3.0], [1.0, 0.1, 1.0]) == 2.0
