"""Timed training steps of a throw-away network."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from trainer import metrics
from trainer.config import Execution, Recipe
from trainer.dataloader import Batch, ValLoader
from trainer.distributed import World
from trainer.training import Accuracy, Meter, Step, choose_precision, evaluate, make_model, make_optimizer

WARM_UP = 5  # steps before the clock starts: kernels are selected, memory is allocated, queues fill
CLASSES = 1000
LR = 0.001


@dataclass(frozen=True)
class TrialResult:
    """Measurement of timed steps."""

    images_per_second: float
    data_wait_share: float  # of the time, in which the device waited for images
    step_ms: dict[str, float]  # milliseconds of a step by phase, mean
    precision: str  # fp32, bf16 or fp16: the recipe's, or the closest one of this device


class Trial:
    """A network with its optimizer, whose training steps are timed."""

    def __init__(
        self, recipe: Recipe, world: World, execution: Execution = Execution(), *, classes: int = CLASSES
    ) -> None:
        torch.manual_seed(recipe.seed)
        self._images, self._world, self._meter = recipe.global_batch, world, Meter(world)
        self._model = make_model(recipe, classes, world)
        self._step = Step(self._model, make_optimizer(self._model, recipe), recipe, world, execution)

    def rehearse(self, batch: Batch) -> None:
        """Compile, and run one pass in this process alone: what fails here, fails before others wait for it."""
        self._step.rehearse(batch)

    def run(
        self, batches: Iterator[Batch], *, steps: int, warm_up: int = WARM_UP, seconds: float = float("inf")
    ) -> TrialResult:
        """Take `warm_up` steps, then time `steps` steps, or fewer if these take longer than `seconds`."""
        if self._world.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._world.device)
        for _ in range(warm_up):
            self._step(batches, LR, self._meter)
        if warm_up:
            self._meter.read(step=0, lr=LR)
        begun, done = time.perf_counter(), 0
        while done < steps and (done == 0 or time.perf_counter() - begun < seconds):
            self._step(batches, LR, self._meter)
            self._meter.step_done()
            done += 1
        values = self._meter.read(step=done, lr=LR)  # waits for the device
        spent = time.perf_counter() - begun
        prefix = metrics.STEP_MS
        return TrialResult(
            images_per_second=done * self._images / spent,
            data_wait_share=values[metrics.DATA_WAIT],
            step_ms={
                key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)
            },
            precision=self._step.precision.name,
        )

    def evaluate(self, batches: ValLoader) -> Accuracy:
        """A pass over validation images, as after each epoch."""
        self._model.eval()
        with self._step.precision.autocast():
            return evaluate(self._model, batches, self._world)


def fixed_batch(recipe: Recipe, world: World, execution: Execution = Execution()) -> Batch:
    """A synthetic micro-batch on the device: images (N, 3, H, W) channels-last, and labels (N,)."""
    images = recipe.micro_batch(world.size, execution.batch_per_gpu)
    size, dtype = recipe.preprocess.train_size, choose_precision(recipe.precision, world.device).image_dtype
    pixels = torch.randn(images, 3, size, size, device=world.device, dtype=dtype)
    return Batch(
        pixels.to(memory_format=torch.channels_last),
        torch.randint(CLASSES, (images,), device=world.device),
    )
