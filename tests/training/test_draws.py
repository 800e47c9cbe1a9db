"""What a network draws for itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch

from tests.conftest import ALONE
from trainer.config import Recipe
from trainer.dataloader import Batch
from trainer.distributed import World
from trainer.training._draws import reseeded


def drawn(recipe: Recipe, *, first: int = 0, world: World = ALONE) -> list[float]:
    """What a network would draw in each of the micro-batches up to the tenth, two a step."""

    def batches() -> Iterator[Batch]:
        for _ in range(2 * first, 10):
            torch.rand(3)  # somebody else draws too
            yield Batch(torch.zeros(1, 3, 8, 8), torch.zeros(1))

    made = reseeded(batches(), recipe, world, accumulation_steps=2, first_step=first)
    return [torch.rand(()).item() for _ in made]


def test_it_depends_on_nothing_but_seed_step_micro_batch_and_process(tiny: Recipe) -> None:
    unbroken = drawn(tiny)
    others = [drawn(replace(tiny, seed=1)), drawn(tiny, world=World(1, 2, torch.device("cpu")))]

    assert drawn(tiny, first=3) == unbroken[6:]
    assert len({*unbroken, *others[0], *others[1]}) == 30
