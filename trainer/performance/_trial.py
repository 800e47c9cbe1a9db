"""Timed training steps of a network that nobody keeps."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from trainer import metrics
from trainer.config import Execution, Recipe
from trainer.dataloader import Batch, ValLoader
from trainer.distributed import World
from trainer.model import build
from trainer.training import Accuracy, Meter, Step, evaluate, make_optimizer

WARM_UP = 5  # steps before the clock starts: kernels are chosen, memory is taken, queues fill
CLASSES = 1000
LR = 0.001


@dataclass(frozen=True)
class TrialResult:
    """What timed steps showed."""

    images_per_second: float
    data_wait_share: float  # of the time in which the device had nothing to do for lack of images
    step_ms: dict[str, float]  # by phase, mean of a step
    memory_gib: float | None  # the most that torch held; None on the CPU
    precision: str  # that it ran in


class Trial:
    """A network with its optimizer, trained for as long as it takes to know how fast that is."""

    def __init__(
        self, recipe: Recipe, world: World, execution: Execution = Execution(), *, classes: int = CLASSES
    ) -> None:
        torch.manual_seed(recipe.seed)
        self._images, self._world, self._meter = recipe.global_batch, world, Meter(world)
        self._model = build(recipe.model, classes).to(world.device)
        self._step = Step(self._model, make_optimizer(self._model, recipe), recipe, world, execution)

    def run(
        self, batches: Iterator[Batch], *, steps: int, warm_up: int = WARM_UP, seconds: float = float("inf")
    ) -> TrialResult:
        """Take `warm_up` and then `steps` steps, or fewer if that takes longer than `seconds`; these are timed."""
        if self._world.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._world.device)
        for _ in range(warm_up):
            self._step(batches, LR, self._meter)
        if warm_up:
            self._meter.read(step=0, lr=LR)
        begun, done = time.perf_counter(), 0
        while done < steps and (done == 0 or time.perf_counter() - begun < seconds):
            self._step(batches, LR, self._meter)
            self._meter.stepped()
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
            memory_gib=values.get(metrics.GPU_MEMORY),
            precision=self._step.precision.name,
        )

    def evaluate(self, batches: ValLoader) -> Accuracy:
        """A pass over validation images, as it is made after each epoch."""
        self._model.eval()
        with self._step.precision.autocast():
            return evaluate(self._model, batches, self._world)


def fixed_batch(recipe: Recipe, world: World, execution: Execution = Execution()) -> Batch:
    """A micro-batch that lies on the device: (N, 3, H, W) channels-last, and labels."""
    images = recipe.micro_batch(world.size, execution.batch_per_gpu)
    size = recipe.preprocess.train_size
    return Batch(
        torch.randn(images, 3, size, size, device=world.device).to(memory_format=torch.channels_last),
        torch.randint(CLASSES, (images,), device=world.device),
    )
