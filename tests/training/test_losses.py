"""The loss of a recipe, and how a classifier starts with it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from timm.data.mixup import mixup_target
from timm.loss import BinaryCrossEntropy

from tests.conftest import ALONE
from trainer.config import Recipe
from trainer.model import build
from trainer.training import make_loss, make_model
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


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("threshold", [None, 0.2])
@pytest.mark.parametrize("summed", [True, False])
def test_binary_cross_entropy_can_be_timms(
    tiny: Recipe, smoothing: float, threshold: float | None, summed: bool
) -> None:
    recipe = replace(
        tiny,
        loss="binary_cross_entropy",
        label_smoothing=smoothing,
        bce_sum=summed,
        bce_target_threshold=threshold,
    )
    ours, theirs = (
        make_loss(recipe),
        BinaryCrossEntropy(smoothing, target_threshold=threshold, sum_classes=summed),
    )
    torch.manual_seed(0)
    logits, labels = torch.randn(6, 5), torch.tensor([0, 1, 2, 4, 1, 0])

    torch.testing.assert_close(ours(logits, labels), theirs(logits, labels))
    for share in (0.75, 0.9):
        mixed = share * torch.eye(5)[labels] + (1 - share) * torch.eye(5)[labels.flip(0)]
        targets = mixup_target(labels, 5, share, smoothing)
        torch.testing.assert_close(ours(logits, mixed), theirs(logits, targets))


def test_a_mean_of_binary_cross_entropies_starts_as_timm_does(tiny: Recipe) -> None:
    recipe = replace(tiny, model="resnet18", loss="binary_cross_entropy")
    summed, mean = (make_model(replace(recipe, bce_sum=on), 1000, ALONE) for on in (True, False))

    assert summed.fc.bias.max() < -6
    assert mean.fc.bias.abs().max() < 0.1
