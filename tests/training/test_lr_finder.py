"""The learning-rate range test."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.conftest import ALONE
from trainer.dataloader import TrainLoader
from trainer.errors import ConfigError, Stopped
from trainer.training import LrPoint, lr_grid, range_test, suggest


class Line(torch.nn.Module):
    """The mean colour of an image, weighed."""

    def __init__(self, classes):
        super().__init__()
        self.classifier = torch.nn.Linear(3, classes)

    def forward(self, images):
        return self.classifier(images.mean(dim=(2, 3)))


@pytest.fixture(autouse=True)
def made(monkeypatch):
    """The models that the tests build, in order."""
    models = []

    def build(name, classes, **_):
        models.append(Line(classes))
        return models[-1]

    monkeypatch.setattr("trainer.training._step.build", build)
    return models


def steps_of(recipe, dataset, rates, **options):
    return [one for block in range_test(recipe, dataset, ALONE, rates, **options) for one in block]


def valley(*, steepest, lowest, highest=10.0, steps=600):
    """A smoothed loss that falls in one smooth step around `steepest` and rises after `lowest`."""
    rates = lr_grid(1e-5, highest, steps)
    losses = [
        2.3 / (1 + (rate / steepest) ** 3) + (math.log(rate / lowest) if rate > lowest else 0)
        for rate in rates
    ]
    return [
        LrPoint(step, rate, loss, loss)
        for step, (rate, loss) in enumerate(zip(rates, losses, strict=True), 1)
    ]


def test_rates_grow_by_the_same_factor_from_the_lowest_to_the_highest():
    rates = lr_grid(1e-4, 1, 41)

    assert (rates[0], rates[-1]) == pytest.approx((1e-4, 1))
    assert np.divide(rates[1:], rates[:-1]) == pytest.approx(10 ** (1 / 10))


@pytest.mark.parametrize(
    ("lowest", "highest", "steps", "says"),
    [
        (1, 1, 100, "must be above 0 and below the highest"),
        (2, 1, 100, "change --min-lr or --max-lr"),
        (0, 1, 100, "must be above 0"),
        (1e-5, math.inf, 100, "below the highest, inf"),
        (math.nan, 1, 100, "the lowest rate, nan"),
        (1e-5, 1, 9, "--steps 9 is not between 10 and"),
        (1e-5, 1, 10**15, "is not between 10 and 100000"),
    ],
)
def test_rates_that_do_not_grow_are_refused(lowest, highest, steps, says):
    with pytest.raises(ConfigError, match=says):
        lr_grid(lowest, highest, steps)


def test_the_steepest_point_and_a_tenth_of_the_lowest_are_suggested():
    suggestion = suggest(valley(steepest=0.02, lowest=0.5))

    assert suggestion.steepest == pytest.approx(0.02, rel=0.03)
    assert suggestion.min_div_10 == pytest.approx(0.05, rel=0.03)


def test_the_first_steps_do_not_count_however_steep():
    curve = valley(steepest=0.02, lowest=0.5)
    noisy = [one._replace(smoothed=9.0 - one.step) if one.step < 10 else one for one in curve]

    assert suggest(noisy) == suggest(curve)


def test_the_recovery_of_a_loss_that_has_blown_up_does_not_count():
    curve = valley(steepest=0.02, lowest=0.1)
    recovering = [one._replace(smoothed=4 * (1.9 - one.rate)) if 1 < one.rate < 2 else one for one in curve]

    assert suggest(recovering) == suggest(curve)


def test_a_loss_that_never_falls_suggests_nothing():
    rising = [one._replace(smoothed=1 + one.rate) for one in valley(steepest=0.02, lowest=0.5)]

    with pytest.raises(ConfigError, match=r"falls no further than to the rate 3\.99e-05, too near"):
        suggest(rising)


@pytest.mark.parametrize("seed", range(10))
def test_a_loss_that_falls_by_chance_only_suggests_nothing(seed):
    luck, smoothed = np.random.default_rng(seed), 2.3
    level = []
    for step, rate in enumerate(lr_grid(1e-5, 10, 200), start=1):
        loss = 2.3 + 0.1 * luck.standard_normal()
        smoothed = 0.95 * smoothed + 0.05 * loss
        level.append(LrPoint(step, rate, loss, smoothed))

    with pytest.raises(ConfigError, match=r"hardly more than by chance|too near the lowest"):
        suggest(level)


@pytest.mark.parametrize("count", [0, 1, 9])
def test_too_few_steps_suggest_nothing(count):
    with pytest.raises(ConfigError, match=f"after {count} steps, too few"):
        suggest(valley(steepest=0.02, lowest=0.5)[:count])


def test_each_step_is_one_of_a_plain_loop_at_its_own_rate(tiny, dataset, made):
    rates = lr_grid(1e-3, 0.5, 25)
    tried = steps_of(tiny, dataset, rates)

    torch.manual_seed(tiny.seed)
    plain = Line(2)
    weight, bias = plain.parameters()
    optimizer = torch.optim.SGD(
        [{"params": weight, "weight_decay": 1e-4}, {"params": bias, "weight_decay": 0}], lr=0.1, momentum=0.9
    )
    losses = []
    for rate, (images, labels, _) in zip(
        rates, TrainLoader(dataset.train, tiny, ALONE).batches(first_step=0, last_step=25), strict=True
    ):
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(plain(images), labels)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())

    assert [one.step for one in tried] == list(range(1, 26))
    assert [one.rate for one in tried] == rates
    assert [one.loss for one in tried] == pytest.approx(losses, rel=1e-5)
    assert tried[0].smoothed == pytest.approx(tried[0].loss), "the first one alone is its own mean"
    assert min(losses[:2]) < tried[1].smoothed < max(losses[:2])
    torch.testing.assert_close(made[0].state_dict(), plain.state_dict(), rtol=1e-5, atol=1e-6)


def test_micro_batches_make_one_step(tiny, dataset):
    rates = lr_grid(1e-3, 0.5, 12)
    whole = steps_of(tiny, dataset, rates)
    parts = steps_of(replace(tiny, batch_per_gpu=2), dataset, rates)

    assert [one.loss for one in parts] == pytest.approx([one.loss for one in whole], rel=1e-4)


def test_each_test_begins_with_a_fresh_model_and_leaves_the_one_before_alone(tiny, dataset, made):
    rates = lr_grid(1e-3, 0.5, 12)
    first = steps_of(tiny, dataset, rates)
    kept = {name: tensor.clone() for name, tensor in made[0].state_dict().items()}

    assert steps_of(tiny, dataset, rates) == first
    torch.testing.assert_close(made[0].state_dict(), kept, rtol=0, atol=0)


def test_it_ends_with_the_first_smoothed_loss_above_four_times_the_best(tiny, dataset):
    tried = steps_of(tiny, dataset, lr_grid(1e-3, 1e6, 60))
    smoothed = [one.smoothed for one in tried]

    assert 10 < len(tried) < 60
    assert smoothed[-1] > 4 * min(smoothed)
    assert smoothed[-2] <= 4 * min(smoothed[:-1])


def test_it_ends_before_the_first_loss_that_is_no_number(tiny, dataset, made, monkeypatch):
    class Breaking(Line):
        calls = 0

        def forward(self, images):
            Breaking.calls += 1
            return super().forward(images) * (math.nan if Breaking.calls == 14 else 1)

    monkeypatch.setattr("trainer.training._step.build", lambda name, classes, **_: Breaking(classes))

    tried = steps_of(tiny, dataset, lr_grid(1e-4, 1e-3, 40))
    assert [one.step for one in tried] == list(range(1, 14))
    assert Breaking.calls == 20, "no step is taken after the reading that shows it"


def test_a_stop_ends_it_at_the_next_step(tiny, dataset):
    asked = iter([False] * 13 + [True])
    blocks = range_test(tiny, dataset, ALONE, lr_grid(1e-4, 1e-3, 40), stop=lambda: next(asked))

    assert len(next(blocks)) == 10
    with pytest.raises(Stopped, match="begins the test anew"):
        next(blocks)
