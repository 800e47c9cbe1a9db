"""The optimizer of a recipe: which parameters decay, and how momentum begins."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from tests.training.steps import Small, batches, bright, in_fp16
from trainer.config import Optimizer, Recipe
from trainer.model import build
from trainer.training import parameter_groups


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


@pytest.mark.usefixtures("unset_memory_is_nan")
def test_a_first_step_that_fp16_skips_leaves_no_momentum(tiny: Recipe) -> None:
    one, two = batches(2)
    weights, _ = in_fp16(tiny, [bright(one), two], init_scale=1024.0)
    without, _ = in_fp16(tiny, [two], init_scale=512.0)

    torch.testing.assert_close(weights[-1], without[-1])
