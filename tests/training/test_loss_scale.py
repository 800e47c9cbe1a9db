"""The warning about steps that fp16 skips."""

from __future__ import annotations

import pytest

from trainer import metrics
from trainer.training._loss_scale import LossScaleMonitor


def warned(caplog: pytest.LogCaptureFixture, intervals: tuple[int, ...], *, every: int) -> list[str]:
    """Warnings about log intervals with so many skipped steps each."""
    monitor = LossScaleMonitor()
    for number, skipped in enumerate(intervals, start=1):
        monitor.update(number * every, {metrics.SKIPPED_STEPS: skipped, metrics.LOSS_SCALE: 0.5})
    return caplog.messages


@pytest.mark.parametrize(
    ("intervals", "every"),
    [
        ((50, 50), 50),  # all of them; what was before the first interval is not known
        ((0, 26, 26, 26), 50),  # more than half in three intervals
        ((0, *[1] * 10), 1),
    ],
)
def test_when_most_steps_are_skipped_it_is_said_once_with_what_to_do(
    caplog: pytest.LogCaptureFixture, intervals: tuple[int, ...], every: int
) -> None:
    (said,) = warned(caplog, intervals * 2, every=every)

    assert "steps were skipped" in said
    assert "(loss scale 0.5)" in said
    assert "lower optimizer.base_lr (--set), or with precision=bf16" in said


@pytest.mark.parametrize(
    ("intervals", "every"),
    [
        ((50, 5, 0, 1), 50),  # while the scale is found
        ((0, 26, 26, 25, 26, 26), 50),
        ((0, 1, 1, 1, 1, 0, 1), 1),  # each interval a step
    ],
)
def test_few_skipped_steps_are_not_worth_a_warning(
    caplog: pytest.LogCaptureFixture, intervals: tuple[int, ...], every: int
) -> None:
    assert warned(caplog, intervals, every=every) == []
