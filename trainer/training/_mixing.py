"""Mixup and cutmix: images of a batch mixed with their neighbours, and their labels with them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torchvision.transforms import v2

from trainer.config import Recipe
from trainer.dataloader import Batch
from trainer.distributed import World

Mix = Callable[[torch.Tensor, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]


def mixed(
    batches: Iterator[Batch],
    recipe: Recipe,
    classes: int,
    world: World,
    *,
    accumulation_steps: int,
    steps_per_epoch: int,
    first_step: int,
) -> Iterator[Batch]:
    """The micro-batches, mixed if the recipe says so, with `targets` (N, classes), shares of each class.

    With both, each micro-batch is mixed in one of the two ways, as torchvision's and timm's training scripts do. The
    draws are a function of the seed, the step, the micro-batch and the process, so a resumed run draws the same.

    Args:
        batches: micro-batches from `first_step` on.
        recipe: the alphas of mixup and cutmix, 0 for none; a phase may change them.
        classes: number of classes.
        world: the processes that share the global batch.
        accumulation_steps: number of micro-batches in an optimizer step.
        steps_per_epoch: number of optimizer steps in an epoch.
        first_step: number of optimizer steps done before.

    Source: Zhang et al. 2017, arXiv:1710.09412; Yun et al. 2019, arXiv:1905.04899; torchvision's transforms v2.
    """
    rng = torch.default_generator  # the only one that torchvision draws from
    for number, batch in enumerate(batches, first_step * accumulation_steps):
        ways = _ways(recipe.at(number // (accumulation_steps * steps_per_epoch)), classes)
        if not ways:
            yield batch
            continue
        before = rng.get_state()
        seeds = np.random.SeedSequence([recipe.seed % 2**64, number, world.rank])
        rng.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))
        way = ways[int(torch.randint(len(ways), ()))]
        images, targets = way(batch.images, batch.labels)
        rng.set_state(before)
        # On a GPU, MixUp's `roll` answers in NCHW.
        images = images.contiguous(memory_format=torch.channels_last)
        yield batch._replace(images=images, targets=targets)


def _ways(recipe: Recipe, classes: int) -> list[Mix]:
    ways: list[Mix] = []
    if recipe.mixup:
        ways.append(v2.MixUp(alpha=recipe.mixup, num_classes=classes))
    if recipe.cutmix:
        ways.append(v2.CutMix(alpha=recipe.cutmix, num_classes=classes))
    return ways
