"""The learning-rate range test."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import ALONE
from tests.nets import BreakingLine, Line
from trainer.config import Execution, Recipe
from trainer.dataloader import TrainLoader
from trainer.dataset import Dataset
from trainer.errors import ConfigError, Stopped
from trainer.training import LrPoint, lr_grid, range_test, suggest


@pytest.fixture(scope="session")
def tiny(tiny: Recipe) -> Recipe:
    """The tiny recipe with a network of one layer."""
    return replace(tiny, model="tests.nets:Line")


@pytest.fixture(autouse=True)
def made(monkeypatch: pytest.MonkeyPatch) -> list[Line]:
    """The models that a test builds, in order."""
    instances: list[Line] = []
    monkeypatch.setattr(Line, "instances", instances)
    return instances


def steps_of(recipe: Recipe, dataset: Dataset, lrs: Sequence[float], **options: Any) -> list[LrPoint]:
    return [point for block in range_test(recipe, dataset, ALONE, lrs, **options) for point in block]


def valley(*, steepest: float, lowest: float, highest: float = 10.0, steps: int = 600) -> list[LrPoint]:
    """A smoothed loss that falls in one smooth step around `steepest` and rises after `lowest`."""
    lrs = lr_grid(1e-5, highest, steps)
    losses = [2.3 / (1 + (lr / steepest) ** 3) + (math.log(lr / lowest) if lr > lowest else 0) for lr in lrs]
    return [LrPoint(step, lr, loss, loss) for step, (lr, loss) in enumerate(zip(lrs, losses, strict=True), 1)]


def test_learning_rates_grow_by_the_same_factor_from_the_lowest_to_the_highest() -> None:
    lrs = lr_grid(1e-4, 1, 41)

    assert (lrs[0], lrs[-1]) == pytest.approx((1e-4, 1))
    assert np.divide(lrs[1:], lrs[:-1]) == pytest.approx(10 ** (1 / 10))


@pytest.mark.parametrize(
    ("lowest", "highest", "steps", "says"),
    [
        (1, 1, 100, "must be above 0 and below the highest"),
        (2, 1, 100, "change --min-lr or --max-lr"),
        (0, 1, 100, "must be above 0"),
        (1e-5, math.inf, 100, "below the highest, inf"),
        (math.nan, 1, 100, "the lowest learning rate, nan"),
        (1e-5, 1, 9, "--steps 9 is not between 10 and"),
        (1e-5, 1, 10**15, "is not between 10 and 100000"),
    ],
)
def test_learning_rates_that_do_not_grow_are_refused(
    lowest: float, highest: float, steps: int, says: str
) -> None:
    with pytest.raises(ConfigError, match=says):
        lr_grid(lowest, highest, steps)


def test_the_steepest_point_and_a_tenth_of_the_lowest_are_suggested() -> None:
    suggestion = suggest(valley(steepest=0.02, lowest=0.5))

    assert suggestion.steepest == pytest.approx(0.02, rel=0.03)
    assert suggestion.min_div_10 == pytest.approx(0.05, rel=0.03)


def test_the_first_steps_do_not_count_however_steep() -> None:
    curve = valley(steepest=0.02, lowest=0.5)
    noisy = [point._replace(smoothed=9.0 - point.step) if point.step < 10 else point for point in curve]

    assert suggest(noisy) == suggest(curve)


def test_the_recovery_of_a_loss_that_has_blown_up_does_not_count() -> None:
    curve = valley(steepest=0.02, lowest=0.1)
    recovering = [
        point._replace(smoothed=4 * (1.9 - point.lr)) if 1 < point.lr < 2 else point for point in curve
    ]

    assert suggest(recovering) == suggest(curve)


def test_a_loss_that_never_falls_suggests_nothing() -> None:
    rising = [point._replace(smoothed=1 + point.lr) for point in valley(steepest=0.02, lowest=0.5)]

    with pytest.raises(ConfigError, match=r"falls no further than to the learning rate 3\.99e-05, too near"):
        suggest(rising)


@pytest.mark.parametrize("seed", range(10))
def test_a_loss_that_falls_by_chance_only_suggests_nothing(seed: int) -> None:
    rng, smoothed = np.random.default_rng(seed), 2.3
    level = []
    for step, lr in enumerate(lr_grid(1e-5, 10, 200), start=1):
        loss = 2.3 + 0.1 * rng.standard_normal()
        smoothed = 0.95 * smoothed + 0.05 * loss
        level.append(LrPoint(step, lr, loss, smoothed))

    with pytest.raises(ConfigError, match=r"hardly more than by chance|too near the lowest"):
        suggest(level)


@pytest.mark.parametrize("count", [0, 1, 9])
def test_too_few_steps_suggest_nothing(count: int) -> None:
    with pytest.raises(ConfigError, match=f"after {count} steps, too few"):
        suggest(valley(steepest=0.02, lowest=0.5)[:count])


def test_each_step_is_one_of_a_plain_loop_at_its_own_rate(
    tiny: Recipe, dataset: Dataset, made: list[Line]
) -> None:
    lrs = lr_grid(1e-3, 0.5, 25)
    points = steps_of(tiny, dataset, lrs)

    torch.manual_seed(tiny.seed)
    plain = Line(2)
    weight, bias = plain.parameters()
    optimizer = torch.optim.SGD(
        [{"params": weight, "weight_decay": 1e-4}, {"params": bias, "weight_decay": 0}], lr=0.1, momentum=0.9
    )
    losses = []
    for lr, (images, labels, *_) in zip(
        lrs, TrainLoader(dataset.train, tiny, ALONE).batches(first_step=0, last_step=25), strict=True
    ):
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(plain(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    assert [point.step for point in points] == list(range(1, 26))
    assert [point.lr for point in points] == lrs
    assert [point.loss for point in points] == pytest.approx(losses, rel=1e-5)
    assert points[0].smoothed == pytest.approx(points[0].loss), "the first one alone is its own mean"
    assert min(losses[:2]) < points[1].smoothed < max(losses[:2])
    torch.testing.assert_close(made[0].state_dict(), plain.state_dict(), rtol=1e-5, atol=1e-6)


def test_micro_batches_make_one_step(tiny: Recipe, dataset: Dataset) -> None:
    lrs = lr_grid(1e-3, 0.5, 12)
    whole = steps_of(tiny, dataset, lrs)
    accumulated = steps_of(tiny, dataset, lrs, execution=Execution(batch_per_gpu=2))

    assert [point.loss for point in accumulated] == pytest.approx([point.loss for point in whole], rel=1e-4)


def test_each_test_begins_with_a_fresh_model_and_leaves_the_one_before_alone(
    tiny: Recipe, dataset: Dataset, made: list[Line]
) -> None:
    lrs = lr_grid(1e-3, 0.5, 12)
    first = steps_of(tiny, dataset, lrs)
    kept = {name: tensor.clone() for name, tensor in made[0].state_dict().items()}

    assert steps_of(tiny, dataset, lrs) == first
    torch.testing.assert_close(made[0].state_dict(), kept, rtol=0, atol=0)


def test_it_ends_with_the_first_smoothed_loss_above_four_times_the_best(
    tiny: Recipe, dataset: Dataset
) -> None:
    points = steps_of(tiny, dataset, lr_grid(1e-3, 1e6, 60))
    smoothed = [point.smoothed for point in points]

    assert 10 < len(points) < 60
    assert smoothed[-1] > 4 * min(smoothed)
    assert smoothed[-2] <= 4 * min(smoothed[:-1])


def test_it_ends_before_the_first_loss_that_is_no_number(
    tiny: Recipe, dataset: Dataset, made: list[Line], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(BreakingLine, "calls", 0)
    recipe = replace(tiny, model="tests.nets:BreakingLine")
    points = steps_of(recipe, dataset, lr_grid(1e-4, 1e-3, 40))
    assert [point.step for point in points] == list(range(1, 14))
    assert BreakingLine.calls == 20, "no step is taken after the block that shows it"


def test_a_stop_ends_it_at_the_next_step(tiny: Recipe, dataset: Dataset) -> None:
    asked = iter([False] * 13 + [True])
    blocks = range_test(tiny, dataset, ALONE, lr_grid(1e-4, 1e-3, 40), stop=lambda: next(asked))

    assert len(next(blocks)) == 10
    with pytest.raises(Stopped, match="begins the test anew"):
        next(blocks)
