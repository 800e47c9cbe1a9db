"""The budget of a run while it is trained: its time, and a forecast as soon as its first steps are measured."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from functools import partial

from trainer import ranks
from trainer.run._limits import SLACK, Limit, is_trained, limit_of, too_small
from trainer.run._options import StartOptions
from trainer.run._pace import Pace, epochs_before
from trainer.run._plan import Plan
from trainer.tracking import read_journal
from trainer.training import Budget

logger = logging.getLogger(__name__)


def budget_of(plan: Plan, options: StartOptions) -> Budget:
    """What this start of the run may still take; the first process keeps the time, and all stop with it.

    To be made when training begins: from then on the journal's seconds count as well.
    """
    limit = limit_of(options)
    if limit is None or ranks.rank() != 0:
        return Budget(until_top1=options.until_top1)
    history = read_journal(plan.folder, empty=True)
    if is_trained(plan, options, history):
        return Budget(until_top1=options.until_top1)
    return Budget(
        seconds=limit.seconds - history.seconds,
        reason=f"because {limit.words} is spent",
        until_top1=options.until_top1,
        forecast=FirstForecast(plan, limit, history.seconds),
    )


def budget_words(options: StartOptions) -> str:
    """The budget as it is given, for a tag; empty if there is none."""
    flags = {
        "--max-hours": options.max_hours,
        "--max-dollars": options.max_dollars,
        "--until-top1": options.until_top1,
    }
    return " ".join(f"{flag} {value:g}" for flag, value in flags.items() if value is not None)


class FirstForecast:
    """Tells from the steps of the first epoch whether the run's time will do; later only its clock does."""

    def __init__(
        self, plan: Plan, limit: Limit, elapsed: float, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._recipe, self._limit = plan.recipe, limit
        self._steps = plan.recipe.steps_per_epoch(len(plan.dataset.train))
        self._pace = Pace(plan.recipe, self._steps)
        self._clock, self._begun = clock, clock() - elapsed
        self._before, self._told = epochs_before(plan), False

    def __call__(self, step: int, values: Mapping[str, float]) -> str | None:
        """Why the time will not do, if it is far from that; told once."""
        self._pace.update(step, values)
        if self._told or not self._pace.known:
            return None
        self._told = self._pace.has_evaluated
        seconds = self._clock() - self._begun + self._pace.seconds(self._recipe, first_step=step)
        if seconds <= self._limit.seconds:
            return None
        self._told = True
        first = round(self._before * self._steps)
        whole = partial(self._pace.seconds, first_step=first)
        said = too_small(self._recipe, self._limit, seconds, "as measured so far", whole, begun=self._before)
        if seconds > SLACK * self._limit.seconds:
            return f"because {said}"
        logger.warning("%s; the run goes on and is stopped when that is spent", said)
        return None
