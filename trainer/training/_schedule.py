"""Learning rates as pure functions of the step, so there is no schedule to save."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence

from trainer.config import Recipe

Schedule = Callable[[int], float]


def learning_rate(recipe: Recipe, *, steps_per_epoch: int) -> Schedule:
    """The schedule a recipe asks for: from step (0-based, before the update) to learning rate."""
    total = recipe.epochs * steps_per_epoch
    schedule, peak = recipe.schedule, recipe.peak_lr
    warmup = round(schedule.warmup_epochs * steps_per_epoch)
    match schedule.name:
        case "cosine":
            return warmup_cosine(peak, warmup=warmup, total=total)
        case "linear":
            return warmup_linear(peak, warmup=warmup, total=total)
        case "step":
            milestones = [round(share * total) for share in schedule.milestones]
            return multi_step(peak, warmup=warmup, total=total, milestones=milestones, gamma=schedule.gamma)
        case "onecycle":
            return one_cycle(
                peak,
                total=total,
                rise=schedule.pct_start,
                start=schedule.div_factor,
                end=schedule.final_div_factor,
            )


def momentum(recipe: Recipe, *, steps_per_epoch: int) -> Schedule | None:
    """The momentum of SGD at each step, where the recipe has it move against the learning rate; None where it stays.

    Source: torch.optim.lr_scheduler.OneCycleLR, `cycle_momentum`.
    """
    schedule = recipe.schedule
    if schedule.momentum_range is None:
        return None
    lowest, highest = schedule.momentum_range
    rate = one_cycle(
        1.0, total=recipe.epochs * steps_per_epoch, rise=schedule.pct_start, start=math.inf, end=1.0
    )
    return lambda step: highest + (lowest - highest) * rate(step)


def warmup_cosine(peak: float, *, warmup: int, total: int) -> Schedule:
    """Linear warm-up to `peak`, then half a cosine to zero.

    Args:
        peak: highest learning rate, reached at the end of the warm-up.
        warmup: steps of linear growth (>= 0).
        total: steps in the whole run; the learning rate is 0 there.

    Returns: a function from step (0-based, before the update) to learning rate.
    Raises: ValueError if the warm-up is not shorter than the run.
    Source: Goyal et al. 2017, arXiv:1706.02677, section 2.2; Loshchilov and Hutter 2016, arXiv:1608.03983.
    """
    return _warmed_up(
        peak,
        warmup,
        total,
        lambda step: peak * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (total - warmup))),
    )


def warmup_linear(peak: float, *, warmup: int, total: int) -> Schedule:
    """Linear warm-up to `peak`, then a straight line to zero.

    Args:
        peak: highest learning rate, reached at the end of the warm-up.
        warmup: steps of linear growth (>= 0).
        total: steps in the whole run; the learning rate is 0 there.

    Returns: a function from step (0-based, before the update) to learning rate.
    Raises: ValueError if the warm-up is not shorter than the run.
    Source: github.com/libffcv/ffcv-imagenet, train_imagenet.py, `get_triangle_lr`.
    """
    return _warmed_up(peak, warmup, total, lambda step: peak * (total - step) / (total - warmup))


def one_cycle(peak: float, *, total: int, rise: float, start: float, end: float) -> Schedule:
    """Half a cosine up to `peak`, then half a cosine down to almost nothing; momentum stays as it is.

    Args:
        peak: highest learning rate.
        total: steps in the whole run.
        rise: share of the steps in which the learning rate grows, in 0..1.
        start: the first learning rate is `peak` divided by this.
        end: the last learning rate is the first one divided by this.

    Returns: a function from step (0-based, before the update) to learning rate.
    Raises: ValueError if there are too few steps to rise and to fall.
    Source: Smith and Topin 2017, arXiv:1708.07120, in the form of torch.optim.lr_scheduler.OneCycleLR.
    """
    top, last = rise * total - 1, total - 1
    if not 0 < top < last:
        raise ValueError(f"a run of {total} steps is too short to rise for {rise:.0%} of it and to fall")
    first = peak / start

    def lr(step: int) -> float:
        if step <= top:
            return _half_cosine(first, peak, step / top)
        return _half_cosine(peak, first / end, min(1.0, (step - top) / (last - top)))

    return lr


def _half_cosine(begin: float, end: float, done: float) -> float:
    return end + (begin - end) / 2 * (1 + math.cos(math.pi * done))


def multi_step(peak: float, *, warmup: int, total: int, milestones: Sequence[int], gamma: float) -> Schedule:
    """Linear warm-up to `peak`, then `gamma` times as much at each milestone.

    Args:
        peak: highest learning rate.
        warmup: steps of linear growth (>= 0).
        total: steps in the whole run.
        milestones: growing steps, from each of which on the learning rate is multiplied by `gamma`.
        gamma: the factor.

    Returns: a function from step (0-based, before the update) to learning rate.
    Raises: ValueError if the warm-up is not shorter than the run.
    Source: torch.optim.lr_scheduler.MultiStepLR; He et al. 2015, arXiv:1512.03385, section 3.4.
    """
    return _warmed_up(peak, warmup, total, lambda step: peak * gamma ** bisect_right(milestones, step))


def _warmed_up(peak: float, warmup: int, total: int, then: Schedule) -> Schedule:
    """Linear growth to `peak` in `warmup` steps, then what `then` says."""
    if not 0 <= warmup < total:
        raise ValueError(f"the warm-up ({warmup} steps) must be shorter than the run ({total} steps)")
    return lambda step: peak * (step + 1) / warmup if step < warmup else then(step)
