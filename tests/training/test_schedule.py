"""Learning rates, against torch's own schedulers."""

import pytest
import torch

from trainer.config import load_recipe
from trainer.training import learning_rate, stepwise, warmup_cosine


def torchs(make, steps, peak):
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=peak)
    scheduler = make(optimizer)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return rates


def test_the_cosine_is_torchs():
    rate = warmup_cosine(0.4, warmup=0, total=100)
    expected = torchs(lambda o: torch.optim.lr_scheduler.CosineAnnealingLR(o, 100), 100, 0.4)

    assert [rate(step) for step in range(100)] == pytest.approx(expected, abs=1e-9)


def test_the_drops_are_torchs():
    rate = stepwise(0.1, warmup=0, total=90, parts=3, factor=0.1)
    expected = torchs(lambda o: torch.optim.lr_scheduler.MultiStepLR(o, [30, 60], 0.1), 90, 0.1)

    assert [rate(step) for step in range(90)] == pytest.approx(expected, abs=1e-9)


def test_the_warm_up_is_linear_and_ends_at_the_peak():
    rate = warmup_cosine(1.0, warmup=4, total=10)

    assert [rate(step) for step in range(5)] == pytest.approx([0.25, 0.5, 0.75, 1.0, 1.0])
    assert rate(10) == pytest.approx(0)


def test_a_warm_up_as_long_as_the_run_is_refused():
    with pytest.raises(ValueError, match="must be shorter than the run"):
        warmup_cosine(1.0, warmup=10, total=10)


def test_the_step_recipe_drops_tenfold_at_every_third_of_the_run():
    recipe = load_recipe("rn50-step")
    rate = learning_rate(recipe, steps_per_epoch=100)
    rates = [rate(epoch * 100) for epoch in (5, 29, 30, 59, 60, 89)]

    assert rates == pytest.approx([recipe.peak_lr * factor for factor in (1, 1, 0.1, 0.1, 0.01, 0.01)])


def test_the_rate_of_a_step_does_not_depend_on_the_number_of_processes(tiny):
    """Schedules know steps of the global batch only; there is nothing else to ask them for."""
    rate = learning_rate(tiny, steps_per_epoch=2)

    assert [rate(step) for step in range(6)] == pytest.approx(
        [tiny.peak_lr * share for share in (0.5, 1, 1, 0.853553, 0.5, 0.146447)], rel=1e-4
    )
