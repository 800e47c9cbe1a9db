"""The loss of a recipe, and how a classifier starts with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from trainer.config import Recipe
from trainer.model import build
from trainer.training import make_loss
from trainer.training._losses import init_classifier_prior


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_binary_cross_entropy_asks_for_each_class_whether_it_is_there(tiny: Recipe, smoothing: float) -> None:
    loss = make_loss(replace(tiny, loss="binary_cross_entropy", label_smoothing=smoothing))
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 3), torch.tensor([0, 1, 2, 2, 1, 0])
    wanted = torch.eye(3)[labels] * (1 - smoothing) + smoothing / 3
    there = logits.sigmoid()
    expected = -(wanted * there.log() + (1 - wanted) * (1 - there).log()).sum(dim=1).mean()

    torch.testing.assert_close(loss(logits, labels), expected)
    torch.testing.assert_close(loss(logits, torch.eye(3)[labels]), expected)


def test_a_classifier_can_start_with_the_odds_of_one_in_as_many_as_there_are() -> None:
    model = build("resnet18", 1000)
    init_classifier_prior(model)

    assert model.fc.bias.sigmoid().mean().item() == pytest.approx(1 / 1001, rel=1e-4)
