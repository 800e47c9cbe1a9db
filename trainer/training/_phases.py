"""Takes the step into the phases of a recipe, as they begin."""

from __future__ import annotations

import logging

from trainer.config import Recipe
from trainer.training._step import Step

logger = logging.getLogger(__name__)


class Phases:
    """The phases of a run, as the step meets them. Loader, mixing and EMA find theirs by the step's number."""

    def __init__(self, recipe: Recipe, step: Step, *, steps_per_epoch: int) -> None:
        self._recipe, self._step, self._steps_per_epoch = recipe, step, steps_per_epoch
        self._now = recipe.at(0)

    def enter(self, number: int) -> None:
        """Take the step into the phase of optimizer step `number` (0-based), and say so; nothing if it is in it."""
        epoch = number // self._steps_per_epoch
        if self._recipe.at(epoch) is self._now:
            return
        self._now = self._recipe.at(epoch)
        self._step.enter(self._now)
        logger.info("phase %s", self._recipe.describe_phases()[self._recipe.begin_of_phase(epoch)])
