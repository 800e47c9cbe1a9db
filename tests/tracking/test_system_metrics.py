"""The machine's load is sampled in intervals."""

from __future__ import annotations

import time

from trainer.tracking import _system_metrics as system
from trainer.tracking._system_metrics import SYSTEM, SystemMetrics


def test_a_sample_is_due_once_in_an_interval_and_knows_how_many_were_since_the_start() -> None:
    metrics = SystemMetrics(started=int(time.time() * 1000) - 65_000)

    sample = metrics.due()

    assert {point.step for point in sample} == {6}
    assert f"{SYSTEM}cpu_utilization_percentage" in {point.key for point in sample}
    assert abs(sample[0].time - time.time() * 1000) < 60_000
    assert metrics.due() == []
    metrics._next -= system.INTERVAL
    assert metrics.due()


def test_a_clock_that_jumped_back_makes_no_negative_step() -> None:
    metrics = SystemMetrics(started=int(time.time() * 1000) + 3_600_000)

    assert {point.step for point in metrics.due()} == {0}
