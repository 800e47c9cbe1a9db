"""What a network draws for itself: stochastic depth, dropout."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch

from trainer.config import Recipe
from trainer.dataloader import Batch
from trainer.distributed import World

_NETWORK = 1  # apart from what mixing draws


def reseeded(
    batches: Iterator[Batch], recipe: Recipe, world: World, *, accumulation_steps: int, first_step: int
) -> Iterator[Batch]:
    """The micro-batches, with torch's generators set before each.

    So what a network draws in training is a function of the seed, the step, the micro-batch and the process: a resumed
    run draws the same, and there is no generator's state to save.

    Args:
        batches: micro-batches from `first_step` on.
        recipe: has the seed.
        world: the processes that share the global batch.
        accumulation_steps: number of micro-batches in an optimizer step.
        first_step: number of optimizer steps done before.
    """
    for number, batch in enumerate(batches, first_step * accumulation_steps):
        seeds = np.random.SeedSequence([recipe.seed % 2**64, number, world.rank, _NETWORK])
        torch.manual_seed(int(seeds.generate_state(1, np.uint64)[0]))
        yield batch
