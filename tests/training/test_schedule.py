"""Learning rates, against torch's own schedulers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from trainer.config import Recipe, load_recipe
from trainer.training import (
    learning_rate,
    momentum,
    multi_step,
    one_cycle,
    warmup_cosine,
    warmup_linear,
)

# At the end of each epoch of the run that rn50-onecycle is taken from.
PUBLISHED: list[float] = np.fromstring(
    """
    0.0087611 0.0127734 0.0193248 0.0282164 0.0391779 0.0518763 0.0659255 0.0808987 0.0963409 0.111783
    0.126755 0.140803 0.153499 0.164458 0.173346 0.179894 0.183903 0.18525 0.18499 0.184214 0.182926
    0.181132 0.178844 0.176073 0.172836 0.16915 0.165036 0.160517 0.155619 0.150368 0.144795 0.138929
    0.132805 0.126456 0.119918 0.113227 0.106421 0.0995376 0.0926157 0.0856939 0.0788108 0.072005
    0.0653145 0.0587768 0.0524283 0.0463047 0.0404401 0.0348673 0.0296175 0.0247201 0.0202025 0.0160899
    0.0124052 0.00916926 0.00639999 0.00411294 0.00232088 0.00103384 0.000259015 7.41507e-07
    """,
    sep=" ",
).tolist()

# At the end of each epoch of the run that rn50-onecycle-50 is taken from: logs/…/training_log.csv of its repository.
PUBLISHED_50: list[float] = np.fromstring(
    """
    0.0088357 0.0142625 0.0230433 0.0347942 0.0490018 0.0650449 0.0822225 0.0997837 0.116961 0.133004
    0.14721 0.15896 0.16774 0.173166 0.175 0.174648 0.173593 0.171846 0.16942 0.166334 0.162613 0.158287
    0.153392 0.147966 0.142053 0.135701 0.128961 0.121887 0.114537 0.106968 0.099243 0.0914233 0.0835719
    0.0757523 0.0680272 0.0604589 0.0531083 0.0460346 0.0392948 0.0329431 0.0270306 0.0216051 0.01671
    0.012385 0.0086647 0.00557916 0.00315321 0.00140637 0.000352702 7.00043e-07
    """,
    sep=" ",
).tolist()


def torchs(make: Callable[[torch.optim.Optimizer], Any], steps: int, peak: float) -> list[float]:
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=peak)
    scheduler = make(optimizer)
    lrs = []
    for _ in range(steps):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return lrs


def test_the_cosine_is_torchs() -> None:
    lr = warmup_cosine(0.4, warmup=0, total=100)
    expected = torchs(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 100), 100, 0.4)

    assert [lr(step) for step in range(100)] == pytest.approx(expected, abs=1e-9)


def test_the_drops_are_torchs() -> None:
    lr = multi_step(0.1, warmup=0, total=90, milestones=[30, 60], gamma=0.1)
    expected = torchs(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [30, 60], 0.1), 90, 0.1)

    assert [lr(step) for step in range(90)] == pytest.approx(expected, abs=1e-9)


def test_one_cycle_is_torchs() -> None:
    lr = one_cycle(0.2, total=600, rise=0.3, start=25, end=1e4)
    expected = torchs(
        lambda o: torch.optim.lr_scheduler.OneCycleLR(o, 0.2, total_steps=601, cycle_momentum=False), 600, 0.2
    )
    exact = one_cycle(0.2, total=601, rise=0.3, start=25, end=1e4)

    assert [exact(step) for step in range(600)] == pytest.approx(expected, abs=1e-9)
    assert lr(0) == pytest.approx(0.2 / 25)
    assert lr(599) == lr(600) == pytest.approx(0.2 / 25 / 1e4)


def test_the_line_is_torchs() -> None:
    lr = warmup_linear(0.4, warmup=0, total=100)
    expected = torchs(lambda o: torch.optim.lr_scheduler.LinearLR(o, 1, 0, 100), 100, 0.4)

    assert [lr(step) for step in range(100)] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(
    ("name", "peak", "published"),
    [("rn50-onecycle", 0.18525, PUBLISHED), ("rn50-onecycle-50", 0.175, PUBLISHED_50)],
)
def test_the_onecycle_recipes_have_the_learning_rates_of_the_published_runs(
    name: str, peak: float, published: list[float]
) -> None:
    recipe = load_recipe(name)
    steps = recipe.steps_per_epoch(1_281_167)
    lr = learning_rate(recipe, steps_per_epoch=steps)

    assert recipe.peak_lr == pytest.approx(peak)
    assert [lr(epoch * steps) for epoch in range(1, recipe.epochs + 1)] == pytest.approx(published, rel=1e-3)


@pytest.mark.parametrize("name", ["rn50-65", "rn50-75", "rn50-78"])
def test_the_short_recipes_have_the_learning_rates_of_the_published_ones(name: str) -> None:
    """`get_cyclic_lr` of libffcv/ffcv-imagenet, whose first learning rate is a 10,000th of the peak instead of 0."""
    recipe = load_recipe(name)
    steps = recipe.steps_per_epoch(1_281_167)
    lr = learning_rate(recipe, steps_per_epoch=steps)
    begun = [number / 10 for number in range(20, 10 * recipe.epochs)]
    rising = [number / 10 for number in range(1, 20)]

    assert [lr(round(epoch * steps)) for epoch in begun] == pytest.approx(
        [np.interp(round(epoch * steps) / steps, [2, recipe.epochs], [1.7, 0]) for epoch in begun], abs=1e-9
    )
    assert [lr(round(epoch * steps) - 1) for epoch in rising] == pytest.approx(
        [np.interp(round(epoch * steps) / steps, [0, 2], [0, 1.7]) for epoch in rising], abs=1e-9
    )


def test_a_run_too_short_for_one_cycle_is_refused() -> None:
    with pytest.raises(ValueError, match="too short to rise for 30% of it"):
        one_cycle(0.1, total=3, rise=0.3, start=25, end=1e4)


def test_the_warm_up_is_linear_and_ends_at_the_peak() -> None:
    lr = warmup_cosine(1.0, warmup=4, total=10)

    assert [lr(step) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert lr(10) == pytest.approx(0)


def test_a_warm_up_as_long_as_the_run_is_refused() -> None:
    with pytest.raises(ValueError, match="must be shorter than the run"):
        warmup_cosine(1.0, warmup=10, total=10)


def test_the_step_recipe_drops_tenfold_at_every_third_of_the_run() -> None:
    recipe = load_recipe("rn50-step")
    lr = learning_rate(recipe, steps_per_epoch=100)
    lrs = [lr(epoch * 100) for epoch in (5, 29, 30, 59, 60, 89)]

    assert lrs == pytest.approx([recipe.peak_lr * factor for factor in (1, 1, 0.1, 0.1, 0.01, 0.01)])


def test_the_learning_rate_of_a_step_does_not_depend_on_the_number_of_processes(tiny: Recipe) -> None:
    """Schedules know steps of the global batch only; there is nothing else to ask them for."""
    lr = learning_rate(tiny, steps_per_epoch=2)

    assert [lr(step) for step in range(6)] == pytest.approx(
        [tiny.peak_lr * share for share in (0.5, 1, 1, 0.853553, 0.5, 0.146447)], rel=1e-4
    )


def test_momentum_moves_against_the_learning_rate_as_torchs() -> None:
    recipe = load_recipe("rn50-onecycle", ["epochs=6", "schedule.momentum_range=[0.85,0.95]"])
    ours = momentum(recipe, steps_per_epoch=100)
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0, momentum=0.9)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=600, pct_start=0.3)

    assert ours is not None
    assert momentum(load_recipe("rn50-onecycle"), steps_per_epoch=100) is None
    for step in range(600):
        assert ours(step) == pytest.approx(optimizer.param_groups[0]["momentum"], abs=1e-9)
        optimizer.step()
        if step < 599:
            scheduler.step()
