"""The optimizer of a recipe: which parameters decay, and how momentum begins."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Literal

import pytest
import timm.optim
import torch
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from tests.conftest import ALONE
from tests.training.steps import Small, batches, bright, in_fp16, trained
from trainer.config import Optimizer, Recipe, Schedule
from trainer.model import build
from trainer.training import Meter, Step, make_optimizer, parameter_groups
from trainer.training._precision import LossScaler


def test_batch_norm_and_biases_are_not_decayed() -> None:
    model = build("resnet50", 10)
    decayed, rest = parameter_groups(model, Optimizer(weight_decay=0.5))
    names = {parameter: name for name, parameter in model.named_parameters()}

    assert (decayed["weight_decay"], rest["weight_decay"]) == (0.5, 0.0)
    assert all(
        "conv" in names[p] or "downsample.0" in names[p] or "fc.weight" in names[p] for p in decayed["params"]
    )
    assert len(decayed["params"]) + len(rest["params"]) == len(names) == 161


def test_batch_norm_and_biases_are_decayed_when_the_recipe_says_so() -> None:
    decayed, rest = parameter_groups(Small(), Optimizer(decay_norm_and_bias=True))

    assert len(decayed["params"]) == 6
    assert rest["params"] == []


@pytest.fixture
def unset_memory_is_nan() -> Iterator[None]:
    """What torch allocates and does not set is else 0 often enough to hide that it was used."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize("momentum", [0.9, 0.0])
@pytest.mark.usefixtures("unset_memory_is_nan")
def test_a_first_step_that_fp16_skips_leaves_no_momentum(tiny: Recipe, momentum: float) -> None:
    """Also where the schedule alone gives one."""
    schedule = Schedule(name="onecycle", momentum_range=(0.85, 0.95))
    recipe = replace(tiny, optimizer=Optimizer(momentum=momentum), schedule=schedule)
    one, two = batches(2)
    weights, _ = in_fp16(recipe, [bright(one), two], momentum=0.95, init_scale=1024.0)
    without, _ = in_fp16(recipe, [two], momentum=0.95, init_scale=512.0)

    torch.testing.assert_close(weights[-1], without[-1])


class Biasless(Small):
    """Before a BatchNorm a bias has no gradient but its rounding, which Adam makes as long as any."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 4, 3, bias=False)


@pytest.mark.parametrize("clip_norm", [1.0, 0.02])
def test_fifty_steps_of_lamb_are_those_of_timm(tiny: Recipe, clip_norm: float) -> None:
    given = batches(50)
    settings = Optimizer(name="lamb", weight_decay=0.02, clip_norm=clip_norm)
    ours, _ = trained(replace(tiny, optimizer=settings), given, 50, lr=0.02, network=Biasless)

    torch.manual_seed(0)
    plain = Biasless()
    groups = parameter_groups(plain, settings)
    theirs = timm.optim.Lamb(groups, lr=0.02, max_grad_norm=clip_norm)
    lengths = []
    for images, labels, *_ in given:
        theirs.zero_grad()
        F.cross_entropy(plain(images), labels).backward()
        lengths.append(torch.nn.utils.clip_grad_norm_(plain.parameters(), torch.inf).item())
        theirs.step()

    assert max(lengths) > 0.02, "otherwise there was nothing to clip"
    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=1e-4, atol=1e-6)


def test_lamb_goes_on_from_its_state_as_if_nothing_had_been(tiny: Recipe) -> None:
    recipe = replace(tiny, optimizer=Optimizer(name="lamb", weight_decay=0.02))
    models = [Small(), Small()]
    models[1].load_state_dict(models[0].state_dict())
    unbroken, first = (make_optimizer(model, recipe) for model in models)
    for number, batch in enumerate(batches(6)):
        if number == 3:
            state = copy.deepcopy(first.state_dict())
            first = make_optimizer(models[1], recipe)
            first.load_state_dict(state)
        for model, optimizer in zip(models, (unbroken, first), strict=True):
            optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = 0.01
            optimizer.zero_grad()
            F.cross_entropy(model(batch.images), batch.labels).backward()
            optimizer.step()

    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=0, atol=0)


def test_decoupled_decay_is_a_share_of_the_weights_in_proportion_to_the_peak_rate(tiny: Recipe) -> None:
    """The update of composer.optim.DecoupledSGDW, by hand."""
    settings = Optimizer(name="sgdw", weight_decay=0.01, base_lr=0.8, decay_norm_and_bias=True)
    recipe = replace(tiny, optimizer=settings)
    given, rates = batches(4), [0.1, 0.025, 0.0125, 0.0]
    assert recipe.peak_lr == pytest.approx(0.025), "of a batch of 8"

    torch.manual_seed(0)
    ours, plain = Small(), Small()
    plain.load_state_dict(ours.state_dict())
    step, meter = Step(ours, make_optimizer(ours, recipe), recipe, ALONE), Meter(ALONE)
    momentum = [torch.zeros_like(p) for p in plain.parameters()]
    for batch, rate in zip(given, rates, strict=True):
        step(iter([batch]), rate, meter)
        plain.zero_grad()
        F.cross_entropy(plain(batch.images), batch.labels).backward()
        with torch.no_grad():
            for weights, speed in zip(plain.parameters(), momentum, strict=True):
                weights.mul_(1 - 0.01 * rate / 0.025)
                assert weights.grad is not None
                speed.mul_(0.9).add_(weights.grad)
                weights.add_(speed, alpha=-rate)

    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=1e-5, atol=1e-7)


def test_decoupled_decay_leaves_the_weights_alone_in_a_step_that_fp16_skips(tiny: Recipe) -> None:
    recipe = replace(tiny, optimizer=Optimizer(name="sgdw", weight_decay=0.1, base_lr=3.2))
    one, two = batches(2)
    weights, _ = in_fp16(recipe, [two, bright(one)], init_scale=1024.0)

    assert not torch.equal(weights[1], weights[0])
    torch.testing.assert_close(weights[2], weights[1], rtol=0, atol=0)


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
def test_lamb_takes_no_step_that_fp16_skips(tiny: Recipe, clip_norm: float) -> None:
    recipe = replace(tiny, optimizer=Optimizer(name="lamb", weight_decay=0.02, clip_norm=clip_norm))
    one, two, three = batches(3)
    weights, _ = in_fp16(recipe, [bright(one), two, bright(one), three], init_scale=1024.0)
    without, _ = in_fp16(recipe, [two, three], init_scale=512.0)

    torch.testing.assert_close(weights[1], weights[0], rtol=0, atol=0)
    torch.testing.assert_close(weights[-1], without[-1], rtol=0, atol=0)


def test_lamb_in_fp16_is_lamb_without_a_loss_scale(tiny: Recipe) -> None:
    recipe = replace(tiny, optimizer=Optimizer(name="lamb", weight_decay=0.02))
    given = batches(10)
    scaled, _ = in_fp16(recipe, given, init_scale=1024.0)
    plain, _ = in_fp16(recipe, given, enabled=False)

    torch.testing.assert_close(scaled[-1], plain[-1], rtol=0, atol=0)


class Waits(TorchDispatchMode):
    """Counts the values of tensors that Python asks for, which on a GPU it must wait for."""

    count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("clip_norm", [0.0, 1.0])
@pytest.mark.parametrize("name", ["sgd", "sgdw", "adamw", "lamb"])
def test_in_fp16_no_optimizer_makes_the_host_wait(
    tiny: Recipe, name: Literal["sgd", "sgdw", "adamw", "lamb"], clip_norm: float
) -> None:
    recipe = replace(tiny, optimizer=Optimizer(name=name, weight_decay=0.02, clip_norm=clip_norm))
    model, meter = Small(), Meter(ALONE)
    step = Step(model, make_optimizer(model, recipe), recipe, ALONE)
    step.scaler = LossScaler("cpu", init_scale=1024.0)
    source = iter(batches(3))

    with Waits() as waits:
        for _ in range(3):
            step(source, 0.1, meter)

    assert waits.count == 0
