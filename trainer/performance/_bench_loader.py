"""How fast training batches are made, against other ways to make them."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import os
import platform
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np
import torch

from trainer.config import Recipe
from trainer.data import Batch, TrainImages, dali_version, file_reader_batches
from trainer.dataset import Split
from trainer.world import World

WARM_UP = 5  # batches before the clock starts: graphs are built, queues fill
OURS = "trainer"

# Makes endless batches; `turn` counts from 0, so that each has other crops.
Contender = Callable[[Split, Recipe, World, int], Iterator[Batch]]


def _trainer(split: Split, recipe: Recipe, world: World, turn: int) -> Iterator[Batch]:
    images = TrainImages(split, dataclasses.replace(recipe, seed=recipe.seed + turn), world)
    return images.batches(first_step=0, last_step=2**40)


def _trainer_again(split: Split, recipe: Recipe, world: World, turn: int) -> Iterator[Batch]:
    return _trainer(split, recipe, world, 1_000_000 + turn)


def _dali_reader(split: Split, recipe: Recipe, world: World, turn: int) -> Iterator[Batch]:
    return file_reader_batches(
        split, recipe.images, world, batch=recipe.global_batch, seed=recipe.seed + turn
    )


CONTENDERS: dict[str, Contender] = {
    OURS: _trainer,
    "trainer_again": _trainer_again,  # the same with another seed: what chance makes of the ratio
    "dali_reader": _dali_reader,
}


def bench_loader(
    split: Split, recipe: Recipe, world: World, *, images: int, rounds: int, cold: bool = False
) -> dict[str, Any]:
    """Make training batches and throw them away: ours, and each other contender.

    They take turns in another order each round, all in this process and with as many DALI threads.
    A contender that depends on chance draws other crops each round.

    Args:
        split: JPEGs; of a large one, `images` of all parts are used, so that they fit into memory.
        recipe: batch, crops and seed.
        world: one process and its device.
        images: timed in each turn, after a few batches for warming up.
        rounds: turns of each contender.
        cold: let the system forget the files before each turn.

    Returns: images/s and images per second of processor time (all threads of this process) of each
        turn, their medians, and how many times as fast as each other contender ours is: the median
        over rounds, since neighbours in time share the machine's mood.
    """
    if len(split) > images:
        split = Split(split.root, split.rows[np.linspace(0, len(split) - 1, images).astype(np.int64)])
    steps = -(-images // recipe.global_batch)
    turns: dict[str, dict[str, list[float]]] = {
        name: {"images_per_second": [], "images_per_cpu_second": []} for name in CONTENDERS
    }
    if not cold:
        _remember(split)
    for turn in range(rounds):
        names = list(CONTENDERS)
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            if cold:
                _forget(split)
            wall, cpu = _timed(CONTENDERS[name](split, recipe, world, turn), steps)
            turns[name]["images_per_second"].append(steps * recipe.global_batch / wall)
            turns[name]["images_per_cpu_second"].append(steps * recipe.global_batch / cpu)
    ours = turns[OURS]
    return {
        "images": len(split),
        "images_each_turn": steps * recipe.global_batch,
        "rounds": rounds,
        "batch": recipe.global_batch,
        "train_size": recipe.images.train_size,
        "cold": cold,
        "threads": len(os.sched_getaffinity(0)),
        "turns": turns,
        **{measure: {name: median(all_[measure]) for name, all_ in turns.items()} for measure in ours},
        "ours_to": {
            name: {
                measure: median(a / b for a, b in zip(ours[measure], theirs[measure], strict=True))
                for measure in ours
            }
            for name, theirs in turns.items()
            if name != OURS
        },
        "device": torch.cuda.get_device_name(world.device)
        if world.device.type == "cuda"
        else platform.processor(),
        "dali": dali_version(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _timed(batches: Iterator[Batch], steps: int) -> tuple[float, float]:
    for _ in itertools.islice(batches, WARM_UP):
        pass
    begun, cpu = time.perf_counter(), time.process_time()
    for _ in itertools.islice(batches, steps):
        pass
    spent = time.perf_counter() - begun, time.process_time() - cpu
    del batches
    gc.collect()  # a graph's threads end with it, not in somebody else's turn
    return spent


def _paths(split: Split) -> Iterator[str]:
    return (os.fspath(split.path(index)) for index in range(len(split)))


def _remember(split: Split) -> None:
    for path in _paths(split):
        with open(path, "rb") as file:
            file.read()


def _forget(split: Split) -> None:
    os.sync()  # what is not on the disk yet cannot be forgotten
    for path in _paths(split):
        file = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)
