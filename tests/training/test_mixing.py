"""Mixed images, and what the loss makes of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice

import pytest
import torch
from torch.nn import functional as F

from tests.conftest import ALONE
from trainer.config import Phase, Recipe
from trainer.dataloader import Batch
from trainer.distributed import World
from trainer.training import make_loss, mixed

CLASSES = 5


def plain(count: int = 6, first: int = 0) -> Iterator[Batch]:
    for number in range(first, count):
        rng = torch.Generator().manual_seed(number)
        images = torch.randn(8, 3, 16, 16, generator=rng).to(memory_format=torch.channels_last)
        yield Batch(images, torch.randint(CLASSES, (8,), generator=rng))


def mixing(recipe: Recipe, *, first: int = 0, world: World = ALONE, accumulated: bool = False) -> list[Batch]:
    """Six micro-batches of three epochs: of two steps each, or of one step of two micro-batches."""
    return list(
        mixed(
            plain(first=first),
            recipe,
            CLASSES,
            world,
            accumulation_steps=2 if accumulated else 1,
            steps_per_epoch=1 if accumulated else 2,
            first_step=first,
        )
    )


def test_without_mixing_batches_pass_as_they_are(tiny: Recipe) -> None:
    for ours, given in zip(mixing(tiny), plain(), strict=True):
        assert torch.equal(ours.images, given.images)
        assert ours.targets is None


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixup_is_two_images_and_its_loss_the_two_losses(tiny: Recipe, smoothing: float) -> None:
    recipe = replace(tiny, mixup=0.8, label_smoothing=smoothing)
    for given, ours in zip(plain(), mixing(recipe), strict=True):
        other, labels = given.images.roll(1, 0), given.labels.roll(1, 0)
        differs = (given.images - other).abs().argmax()
        flat = [images.flatten()[differs] for images in (ours.images, other, given.images)]
        share = ((flat[0] - flat[1]) / (flat[2] - flat[1])).item()
        logits = torch.randn(8, CLASSES)
        expected = share * F.cross_entropy(logits, given.labels, label_smoothing=smoothing)
        expected += (1 - share) * F.cross_entropy(logits, labels, label_smoothing=smoothing)

        assert 0 <= share <= 1
        torch.testing.assert_close(
            ours.images, share * given.images + (1 - share) * other, atol=1e-5, rtol=1e-4
        )
        torch.testing.assert_close(make_loss(recipe)(logits, ours.targets), expected, atol=1e-5, rtol=1e-4)
        assert ours.images.is_contiguous(memory_format=torch.channels_last)
        assert torch.equal(ours.labels, given.labels)


def test_cutmix_is_a_rectangle_of_another_image_and_its_share_of_the_loss(tiny: Recipe) -> None:
    recipe = replace(tiny, cutmix=1.0)
    for given, ours in zip(plain(), mixing(recipe), strict=True):
        own = (ours.images == given.images).all(dim=1)  # (N, H, W)
        share = own[0].float().mean().item()
        logits = torch.randn(8, CLASSES)
        expected = share * F.cross_entropy(logits, given.labels)
        expected += (1 - share) * F.cross_entropy(logits, given.labels.roll(1, 0))

        assert (own == own[0]).all()
        assert torch.equal(ours.images, torch.where(own[:, None], given.images, given.images.roll(1, 0)))
        torch.testing.assert_close(make_loss(recipe)(logits, ours.targets), expected)


def test_what_is_drawn_depends_on_nothing_but_seed_step_and_process(tiny: Recipe) -> None:
    recipe = replace(tiny, mixup=0.8, cutmix=1.0)
    unbroken = [batch.targets for batch in mixing(recipe)]
    before = torch.get_rng_state()
    torch.manual_seed(123)
    resumed = [batch.targets for batch in mixing(recipe, first=4)]
    torch.set_rng_state(before)
    elsewhere = [batch.targets for batch in mixing(recipe, world=World(1, 2, torch.device("cpu")))]
    other_seed = [batch.targets for batch in mixing(replace(recipe, seed=1))]

    assert all(torch.equal(a, b) for a, b in zip(resumed, unbroken[4:], strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(elsewhere, unbroken, strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(other_seed, unbroken, strict=True))


def test_mixing_leaves_the_generator_of_others_alone(tiny: Recipe) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    recipe = replace(tiny, mixup=0.2)
    batches = mixed(plain(), recipe, CLASSES, ALONE, accumulation_steps=1, steps_per_epoch=2, first_step=0)
    list(islice(batches, 3))

    assert torch.equal(torch.rand(3), expected)


def test_from_a_phase_on_batches_are_mixed_as_if_they_had_always_been_mixed_so(tiny: Recipe) -> None:
    cutmix, mixup = replace(tiny, cutmix=1.0), replace(tiny, mixup=0.8)
    phases = (Phase(at=0.3, cutmix=0, mixup=0.8), Phase(at=0.6, mixup=0))
    ours = mixing(replace(cutmix, phases=phases))
    expected = [*mixing(cutmix)[:2], *mixing(mixup)[2:4], *mixing(tiny)[4:]]

    for one, other in zip(ours, expected, strict=True):
        assert torch.equal(one.images, other.images)
    assert [batch.targets is None for batch in ours] == 4 * [False] + 2 * [True]
    accumulated = mixing(replace(cutmix, phases=phases), accumulated=True)
    assert all(torch.equal(one.images, other.images) for one, other in zip(accumulated, ours, strict=True))
    resumed = mixing(replace(cutmix, phases=phases), first=3)
    assert all(torch.equal(one.images, other.images) for one, other in zip(resumed, ours[3:], strict=True))
