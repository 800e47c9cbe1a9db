"""The benchmark of the mirror runs; what it measures is for a quiet machine."""

from __future__ import annotations

from dataclasses import replace

import pytest

from benchmarks.mirror import MANNERS, bench_mirror
from trainer.config import Recipe

pytestmark = pytest.mark.slow


def test_each_manner_of_s3_is_measured_in_pairs(tiny: Recipe) -> None:
    result = bench_mirror(replace(tiny, model="tests.nets:Small"), steps=2, rounds=1)

    assert result.seconds.keys() == MANNERS.keys()
    assert all(len(pairs) == 2 for pairs in result.seconds.values())
    assert all(low <= result.beside_to_without[name] <= high for name, (low, high) in result.ratio_95.items())
