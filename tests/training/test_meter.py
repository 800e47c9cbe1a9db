"""What the steps of a log interval add up to."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch

from tests.conftest import ALONE
from tests.training.steps import batches, bright, in_fp16, trained
from trainer import metrics
from trainer.config import Recipe
from trainer.dataloader import Batch
from trainer.errors import TrainingDiverged
from trainer.training import Meter


def test_the_meter_counts_what_was_learned(tiny: Recipe) -> None:
    _, meter = trained(tiny, batches(3), 3)
    values = meter.read(step=3, lr=0.25)

    assert 0 < values[metrics.TRAIN_LOSS] < 5
    assert values[metrics.TRAIN_TOP5] == 1, "of three classes the right one is always among the best five"
    assert values[metrics.LR] == 0.25
    assert values[metrics.THROUGHPUT] > 0
    assert 0 <= values[metrics.DATA_WAIT] < 1


def test_a_loss_that_is_no_number_stops_the_run_with_step_and_learning_rate(tiny: Recipe) -> None:
    given = [*batches(1), Batch(torch.full((8, 3, 8, 8), torch.nan), torch.zeros(8, dtype=torch.int64))]
    _, meter = trained(tiny, given, 2)

    with pytest.raises(TrainingDiverged, match=r"became nan by step 2 \(learning rate 0.1\)"):
        meter.read(step=2, lr=0.1)


def test_the_meter_shows_where_the_time_of_a_step_goes(tiny: Recipe) -> None:
    class Slow(list[Batch]):
        def __iter__(self) -> Iterator[Batch]:
            for batch in super().__iter__():
                time.sleep(0.05)
                yield batch

    begun = time.perf_counter()
    _, meter = trained(tiny, Slow(batches(3)), 3)
    values = meter.read(step=3, lr=0.1)
    seconds = time.perf_counter() - begun

    phases = {key.rpartition("/")[2]: value for key, value in values.items() if "step_ms" in key}
    assert phases.keys() == {"data", "forward", "backward", "count", "optimizer"}
    assert phases["data"] > 50  # ms, mean of a step
    assert 3 * sum(phases.values()) < 1000 * seconds
    assert min(phases.values()) > 0
    assert values[metrics.DATA_WAIT] > 0.15 / seconds


def test_an_evaluation_counts_for_neither_the_throughput_nor_the_longest_step(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    clock = 0.0
    monkeypatch.setattr("trainer.training._meter.time", SimpleNamespace(perf_counter=lambda: clock))
    meter = Meter(ALONE)
    for clock in (2.0, 105.0):  # a step of 2 seconds, an evaluation of 100, a step of 3
        meter.add(torch.tensor(1.0), torch.zeros(8, 3), torch.zeros(8, dtype=torch.int64))
        meter.step_done()
        if clock == 2.0:
            meter.exclude(100.0)
    values = meter.read(step=2, lr=0.1)

    assert values[metrics.LONGEST_STEP] == 3.0
    assert values[metrics.THROUGHPUT] == 16 / 5


def test_steps_that_fp16_skips_are_counted_in_each_log_interval(tiny: Recipe) -> None:
    one, two, three, four = batches(4)
    given = [bright(one), two, bright(three), four, bright(one)]
    weights, meter = in_fp16(tiny, given, init_scale=1024.0, growth_interval=2)
    values = meter.read(step=5, lr=0.1)
    unchanged = [torch.equal(*pair) for pair in pairwise(weights)]

    assert unchanged == [True, False, True, False, True]
    assert (values[metrics.SKIPPED_STEPS], values[metrics.LOSS_SCALE]) == (3, 1024 / 8)
    _, meter = in_fp16(tiny, [two, bright(one)], meter)
    assert meter.read(step=7, lr=0.1)[metrics.SKIPPED_STEPS] == 1, "of this interval"


def test_a_step_that_is_skipped_as_the_scale_grows_again_is_not_missed(tiny: Recipe) -> None:
    """The scale of the loss is the same before and after: it halves, and doubles with the next step."""
    one, two = batches(2)
    _, meter = in_fp16(tiny, [bright(one), two], init_scale=1024.0, growth_interval=1)
    values = meter.read(step=2, lr=0.1)

    assert (values[metrics.SKIPPED_STEPS], values[metrics.LOSS_SCALE]) == (1, 1024)


def test_skipped_steps_are_not_lost_between_two_reads(tiny: Recipe) -> None:
    one, two = batches(2)
    _, before = in_fp16(tiny, [bright(one)])
    after = Meter(ALONE)
    after.load_state_dict(before.state_dict())
    _, after = in_fp16(tiny, [bright(two), one], after)

    assert after.read(step=3, lr=0.1)[metrics.SKIPPED_STEPS] == 2


def test_without_a_scaled_loss_nothing_is_said_of_it(tiny: Recipe) -> None:
    _, meter = trained(tiny, batches(1), 1)

    assert not {metrics.SKIPPED_STEPS, metrics.LOSS_SCALE} & meter.read(step=1, lr=0.1).keys()
