"""How long a run takes at the pace that it has shown so far."""

from __future__ import annotations

import bisect
import dataclasses
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from statistics import median

from trainer import metrics
from trainer.config import Recipe
from trainer.run._eta import FINAL_EVALUATIONS, WINDOW
from trainer.run._parent import parent_tags
from trainer.run._plan import Plan
from trainer.tracking import BEGUN, RunHistory

ENOUGH = 3  # throughputs besides the first, which holds the start-up


class Pace:
    """Pixels trained per second, and seconds of an evaluation: medians of what was measured.

    Time is taken as proportional to pixels, so that early epochs with small crops do not make the whole look short.
    """

    def __init__(self, recipe: Recipe, steps_per_epoch: int) -> None:
        self._recipe, self._steps_per_epoch = recipe, steps_per_epoch
        self._pixels: deque[float] = deque(maxlen=WINDOW)
        self._evaluations: deque[float] = deque(maxlen=WINDOW)
        self._starting = True

    @classmethod
    def of(cls, history: RunHistory, recipe: Recipe, steps_per_epoch: int) -> Pace:
        """As a run's journal has it."""
        pace = cls(recipe, steps_per_epoch)
        for point in history.points:
            pace.update(point.step, {point.key: point.value})
        return pace

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Take in what was measured after `step` steps."""
        if images := values.get(metrics.THROUGHPUT):
            if not self._starting:
                self._pixels.append(
                    images * self._recipe.train_size((step - 1) // self._steps_per_epoch) ** 2
                )
            self._starting = False
        if seconds := values.get(metrics.EVALUATION_SECONDS):
            self._evaluations.append(seconds)

    @property
    def known(self) -> bool:
        """Whether enough was measured to tell."""
        return len(self._pixels) >= ENOUGH or bool(self._pixels and self._evaluations)

    @property
    def has_evaluated(self) -> bool:
        """Whether the seconds of an evaluation are known as well."""
        return bool(self._evaluations)

    def seconds(self, recipe: Recipe, *, first_step: int = 0) -> float:
        """What is left of a run of `recipe` after `first_step` steps, evaluations included; the pace must be known."""
        begun, within = divmod(first_step, self._steps_per_epoch)
        pixels: float = sum(recipe.train_size(epoch) ** 2 for epoch in range(begun, recipe.epochs))
        if within:
            pixels -= recipe.train_size(begun) ** 2 * within / self._steps_per_epoch
        images = self._steps_per_epoch * recipe.global_batch
        evaluations = recipe.epochs - begun + FINAL_EVALUATIONS
        each = median(self._evaluations) if self._evaluations else 0.0
        return images * pixels / median(self._pixels) + evaluations * each


def epochs_before(plan: Plan) -> float:
    """Epochs of the run that this one extends, which count among its own; 0 if it extends none."""
    if plan.parent is None or plan.parent.takes == "weights":
        return 0.0
    if begun := parent_tags(plan.folder).get(BEGUN):
        return float(begun)
    from trainer.checkpoint import checkpoint_step, list_checkpoints  # imports torch, as each extension does

    (newest, *_) = list_checkpoints(Path(plan.parent.model) / "checkpoints")
    return checkpoint_step(newest) / plan.recipe.steps_per_epoch(len(plan.dataset.train))


def most_epochs(recipe: Recipe, seconds: float, whole: Callable[[Recipe], float], *, begun: float = 0) -> int:
    """The most epochs, fewer than the recipe's, of a run that takes `seconds` at most; 0 if no number of them does."""
    numbers = [epochs for epochs in numbers_of_epochs(recipe) if epochs > begun]
    fit = bisect.bisect_right(numbers, seconds, key=lambda epochs: whole(shortened(recipe, epochs)))
    return numbers[fit - 1] if fit else 0


def numbers_of_epochs(recipe: Recipe) -> list[int]:
    """Numbers of epochs, fewer than the recipe's, that its phases allow; one may be missing between two others."""
    return [epochs for epochs in range(1, recipe.epochs) if recipe.phases_fit(epochs)]


def shortened(recipe: Recipe, epochs: int) -> Recipe:
    """The recipe with fewer epochs and a schedule of the same shape: its warm-up is as large a share of the run."""
    schedule = recipe.schedule
    if schedule.name != "onecycle":
        warmup = round(schedule.warmup_epochs * epochs / recipe.epochs, 3)
        schedule = dataclasses.replace(schedule, warmup_epochs=warmup)
    return dataclasses.replace(recipe, epochs=epochs, schedule=schedule)


def settings_of(recipe: Recipe) -> tuple[str, ...]:
    """What `shortened` has changed, as --set takes it."""
    warmup = (
        ()
        if recipe.schedule.name == "onecycle"
        else (f"schedule.warmup_epochs={recipe.schedule.warmup_epochs:g}",)
    )
    return (f"epochs={recipe.epochs}", *warmup)
