"""The learning-rate range test: the loss while the learning rate grows from step to step.

Source: Smith 2015, arXiv:1506.01186, section 3.3; the exponential growth, the smoothing, the early end and both
suggestions are those of fastai's `lr_find` and PyTorch Lightning's `lr_find`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch

from trainer.config import Execution, Recipe
from trainer.dataset import Dataset
from trainer.distributed import World
from trainer.errors import ConfigError, Stopped
from trainer.training._meter import Meter
from trainer.training._mixing import mixed
from trainer.training._optimizer import make_optimizer
from trainer.training._step import Step, make_loader, make_model

BLOCK = 10  # steps between two waits for the device
# Factor of the exponential smoothing: the smoothed loss lags by some 20 steps. fastai's and Lightning's 0.98 would lag
# by 50, a quarter of the test.
SMOOTHING = 0.95
FAR = 4.0  # times its best value: a smoothed loss above has diverged
BLOWN_UP = 1.2  # times its first value: from there on a falling loss recovers, it does not learn
CHANCE = 5  # times the noise of the smoothed loss: a smaller fall means nothing
FEWEST, MOST = 10, 100_000  # steps of a useful range test


class LrPoint(NamedTuple):
    """One step of the test."""

    step: int  # counted from 1
    lr: float  # of the optimizer, for the recipe's global batch
    loss: float  # mean of the global batch, before the update
    smoothed: float


class Suggestion(NamedTuple):
    """Peak learning rates, for the recipe's global batch."""

    steepest: float  # where the smoothed loss falls fastest
    min_div_10: float  # a tenth of where it is lowest


def lr_grid(lowest: float, highest: float, steps: int) -> list[float]:
    """Learning rates, one for each step, each the same multiple of the one before.

    Raises: ConfigError if `lowest` is not below `highest`, or `steps` is out of range.
    """
    if not 0 < lowest < highest < math.inf:
        raise ConfigError(
            f"the lowest learning rate, {lowest:g}, must be above 0 and below the highest, {highest:g}; change "
            "--min-lr or --max-lr"
        )
    if not FEWEST <= steps <= MOST:
        raise ConfigError(
            f"--steps {steps} is not between {FEWEST} and {MOST}; a test of 100 to 500 steps says most"
        )
    lrs: list[float] = np.geomspace(lowest, highest, steps).tolist()
    return lrs


def range_test(
    recipe: Recipe,
    dataset: Dataset,
    world: World,
    lrs: Sequence[float],
    *,
    execution: Execution = Execution(),
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[list[LrPoint]]:
    """Train a fresh model with one step at each of `lrs`, as `train` would; yield the steps in blocks.

    The test ends early once the loss has diverged: with the step whose smoothed loss is above `FAR` times its best, or
    just before the step whose loss is not a number. No file is written.

    Args:
        recipe: what to train; its schedule is not used.
        dataset: data set whose training images are used, in the order of a run.
        world: a world of one process.
        lrs: learning rates, one for each step.
        execution: micro-batch, compile mode and decoder on this machine.
        stop: called before each step; True ends the test.

    Raises: Stopped if asked to stop; DataError.
    """
    torch.manual_seed(recipe.seed)
    recipe = recipe.at(0)  # as it begins, however few epochs it has
    images = make_loader(dataset.train, recipe, world, execution)
    classes = len(dataset.classes)
    model = make_model(recipe, classes, world)
    step = Step(model, make_optimizer(model, recipe), recipe, world, execution)
    losses, smoothing = _Losses(world), _Smoothing()

    batches = mixed(
        images.batches(first_step=0, last_step=len(lrs)),
        recipe,
        classes,
        world,
        accumulation_steps=images.accumulation_steps,
        steps_per_epoch=images.steps_per_epoch,
        first_step=0,
    )
    for start in range(0, len(lrs), BLOCK):
        some = lrs[start : start + BLOCK]
        for lr in some:
            if stop():
                raise Stopped("stopped on request; the same command begins the test anew")
            step(batches, lr, losses)
        block: list[LrPoint] = []
        means = losses.of_steps(images.accumulation_steps)
        for number, lr, loss in zip(range(start + 1, start + 1 + len(some)), some, means, strict=True):
            if not math.isfinite(loss) or smoothing.diverged:
                break
            block.append(LrPoint(number, lr, loss, smoothing.add(loss)))
        yield block
        if len(block) < len(some) or smoothing.diverged:
            return


def suggest(points: Sequence[LrPoint]) -> Suggestion:
    """Peak learning rates that the points of a range test suggest.

    The first tenth does not count, for its smoothed loss is the mean of a few steps; neither do the steps after the
    loss has diverged: on the digits the steepest descent of all was the recovery from a divergence, at 13 times the
    learning rate that trains well. A fall of the loss that is within its noise suggests nothing.

    Raises: ConfigError if there are too few points, or the loss hardly falls.
    """
    skipped = len(points) // 10
    blown_up = (
        n for n in range(skipped, len(points)) if points[n].smoothed > BLOWN_UP * points[skipped].smoothed
    )
    judged = points[skipped : next(blown_up, len(points))]
    if len(points) < FEWEST or len(judged) < 2:
        raise ConfigError(
            f"the loss diverged after {skipped + len(judged)} steps, too few to suggest a rate; begin with a lower "
            "--min-lr, or let the learning rate grow more slowly with more --steps"
        )
    lrs, smoothed = [one.lr for one in judged], [one.smoothed for one in judged]
    lowest = int(np.argmin(smoothed))
    slopes = np.gradient(smoothed, np.log(lrs))[: lowest + 1]
    if lowest == 0 or lrs[lowest] / 10 < points[0].lr:
        raise ConfigError(
            f"the loss falls no further than to the learning rate {lrs[lowest]:.3g}, too near the lowest, "
            f"{points[0].lr:.3g}, to suggest one; use a lower --min-lr or more --steps"
        )
    fall, noise = smoothed[0] - smoothed[lowest], _noise([one.loss for one in judged[: lowest + 1]])
    if fall < CHANCE * noise:
        raise ConfigError(
            f"the smoothed loss falls by {fall:.2g}, hardly more than by chance ({noise:.2g}), so that its steepest "
            "point means nothing; use more --steps, a higher --max-lr or a larger global_batch"
        )
    return Suggestion(steepest=lrs[int(np.argmin(slopes))], min_div_10=lrs[lowest] / 10)


def _noise(losses: Sequence[float]) -> float:
    """Standard deviation of the smoothed loss by chance, estimated from the differences between successive losses."""
    jumps = float(np.diff(losses).std()) / math.sqrt(2)
    return jumps * math.sqrt((1 - SMOOTHING) / (1 + SMOOTHING))


class _Losses(Meter):
    """Keeps the loss of each micro-batch on the device, instead of sums."""

    def __init__(self, world: World) -> None:
        super().__init__(world)
        self._kept: list[torch.Tensor] = []

    def add(self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Keep the mean of one micro-batch."""
        self._kept.append(loss)

    def of_steps(self, accumulation_steps: int) -> list[float]:
        """Means of the steps since the last call, of `accumulation_steps` micro-batches each; waits for the device."""
        means: list[float] = torch.stack(self._kept).float().view(-1, accumulation_steps).mean(dim=1).tolist()
        self._kept = []
        self.timer.read()
        return means


class _Smoothing:
    """The exponential moving average of the losses, corrected for its start at zero."""

    def __init__(self) -> None:
        self._sum = self._weight = 0.0
        self._best = self._now = math.inf

    def add(self, loss: float) -> float:
        """Add a loss and return the average."""
        self._sum = SMOOTHING * self._sum + (1 - SMOOTHING) * loss
        self._weight = SMOOTHING * self._weight + (1 - SMOOTHING)
        self._now = self._sum / self._weight
        self._best = min(self._best, self._now)
        return self._now

    @property
    def diverged(self) -> bool:
        """Whether the loss is far above its best value."""
        return self._now > FAR * self._best
