"""Learning rates as pure functions of the step, so there is no schedule to save."""

from __future__ import annotations

import math
from collections.abc import Callable

from trainer.config import Recipe

Schedule = Callable[[int], float]


def learning_rate(recipe: Recipe, *, steps_per_epoch: int) -> Schedule:
    """The schedule a recipe asks for: from step (0-based, before the update) to learning rate."""
    total = recipe.epochs * steps_per_epoch
    warmup = round(recipe.schedule.warmup_epochs * steps_per_epoch)
    if recipe.schedule.shape == "cosine":
        return warmup_cosine(recipe.peak_lr, warmup=warmup, total=total)
    return stepwise(
        recipe.peak_lr, warmup=warmup, total=total, parts=recipe.schedule.parts, factor=recipe.schedule.factor
    )


def warmup_cosine(peak: float, *, warmup: int, total: int) -> Schedule:
    """Linear warm-up to `peak`, then half a cosine to zero.

    Args:
        peak: highest learning rate, reached at the end of the warm-up.
        warmup: steps of linear growth (>= 0).
        total: steps in the whole run; the rate is 0 there.

    Returns: a function from step (0-based, before the update) to learning rate.
    Raises: ValueError if the warm-up is not shorter than the run.
    Source: Goyal et al. 2017, arXiv:1706.02677, section 2.2; Loshchilov and Hutter 2016, arXiv:1608.03983.
    """
    _check(warmup, total)

    def rate(step: int) -> float:
        if step < warmup:
            return peak * (step + 1) / warmup
        return peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup)))

    return rate


def stepwise(peak: float, *, warmup: int, total: int, parts: int, factor: float) -> Schedule:
    """Linear warm-up to `peak`, then `factor` times less at each of the cuts that make `parts` equal parts.

    Args:
        peak: highest learning rate.
        warmup: steps of linear growth (>= 0).
        total: steps in the whole run.
        parts: equal parts of the run, warm-up included in the first.
        factor: what the rate is multiplied with from one part to the next.

    Returns: a function from step (0-based, before the update) to learning rate.
    Raises: ValueError if the warm-up is not shorter than the run.
    Source: He et al. 2015, arXiv:1512.03385, section 3.4.
    """
    _check(warmup, total)

    def rate(step: int) -> float:
        if step < warmup:
            return peak * (step + 1) / warmup
        return peak * factor ** min(step * parts // total, parts - 1)

    return rate


def _check(warmup: int, total: int) -> None:
    if not 0 <= warmup < total:
        raise ValueError(f"the warm-up ({warmup} steps) must be shorter than the run ({total} steps)")
