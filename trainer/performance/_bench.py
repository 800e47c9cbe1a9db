"""Timed training steps: the device alone, and fed with real JPEGs."""

from __future__ import annotations

import itertools
import platform
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.config import Recipe
from trainer.data import Batch, TrainImages
from trainer.dataset import Split, folder, open_dataset, prepare
from trainer.model import build
from trainer.training import Meter, Step, make_optimizer
from trainer.world import World

WARM_UP = 5  # steps before the clock starts: kernels are chosen, memory is taken, queues fill
PHOTOS = 512  # generated where no data set is given
CLASSES = 1000


def bench_train(recipe: Recipe, split: Split, world: World, *, steps: int) -> dict[str, Any]:
    """Train `steps` steps on images that lie on the device already, then on JPEGs from `split`.

    Args:
        recipe: what to train.
        split: JPEGs for the second part, used again and again.
        world: one process and its device.
        steps: timed steps of each part, after a few for warming up.

    Returns: images/s of both parts, their ratio (what the data path leaves of the device's speed),
        the share of time spent waiting for data, and where all this was measured.
    """
    repeated = _Repeated(split, recipe, world, needed=(WARM_UP + steps) * recipe.global_batch)
    micro_batch = repeated.images.micro_batch
    size = recipe.images.train_size
    fixed = Batch(
        torch.randn(micro_batch, 3, size, size, device=world.device).to(memory_format=torch.channels_last),
        torch.randint(CLASSES, (micro_batch,), device=world.device),
    )
    synthetic = _timed(recipe, world, itertools.repeat(fixed), steps)
    real = _timed(recipe, world, repeated.batches(WARM_UP + steps), steps)
    return {
        "images_per_second": {"synthetic": synthetic["rate"], "real": real["rate"]},
        "real_to_synthetic": real["rate"] / synthetic["rate"],
        "data_wait_share": real["wait"],
        "gpu_memory_gib": real["memory"],
        "steps": steps,
        "batch": recipe.global_batch,
        "micro_batch": micro_batch,
        "train_size": size,
        "precision": synthetic["precision"],
        "device": torch.cuda.get_device_name(world.device)
        if world.device.type == "cuda"
        else platform.processor(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _timed(recipe: Recipe, world: World, batches: Iterator[Batch], steps: int) -> dict[str, Any]:
    torch.manual_seed(recipe.seed)
    model = build(recipe.model, CLASSES).to(world.device)
    optimizer = make_optimizer(model, recipe, world)
    step, meter = Step(model, optimizer, recipe, world), Meter(world)
    for _ in range(WARM_UP):
        step(batches, 0.001, meter)
    meter.read(step=0, rate=0.001)
    begun = time.perf_counter()
    for _ in range(steps):
        step(batches, 0.001, meter)
    values = meter.read(step=steps, rate=0.001)  # waits for the device
    seconds = time.perf_counter() - begun
    return {
        "rate": steps * recipe.global_batch / seconds,
        "wait": values["speed/data_wait_share"],
        "memory": values.get("speed/gpu_memory_gib"),
        "precision": step.precision.name,
    }


class _Repeated:
    """A small split, listed as often as it takes to fill the timed steps."""

    def __init__(self, split: Split, recipe: Recipe, world: World, *, needed: int) -> None:
        times = -(-needed // len(split))
        longer = Split(split.root, np.tile(split.rows, times))
        self.images = TrainImages(longer, recipe, world)

    def batches(self, steps: int) -> Iterator[Batch]:
        return self.images.batches(first_step=0, last_step=steps)


def make_photos(root: Path, *, count: int = PHOTOS) -> Split:
    """Write JPEGs of ImageNet's usual size (500 x 375 pixels, about 110 KB) and return them as a split.

    Smooth colours under noise: what counts for the decoder is the number of pixels and bytes.
    """
    from PIL import Image

    luck = np.random.default_rng(0)
    for index in range(count + 1):
        part = "val" if index == count else "train"
        (root / part / "photos").mkdir(parents=True, exist_ok=True)
        coarse = Image.fromarray(luck.integers(0, 256, (6, 8, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((500, 375), Image.Resampling.BICUBIC), dtype=np.int16)
        noisy = pixels + luck.normal(0, 12, pixels.shape).astype(np.int16)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(
            root / part / "photos" / f"{index:04d}.jpeg", quality=90
        )
    prepare(folder(root, out=root), root)
    return open_dataset(root).train
