"""A run that goes on from another one's end for more epochs, where the learning rate allows it."""

from __future__ import annotations

import json
import math
import re
import shlex
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from trainer import ranks
from trainer.checkpoint import checkpoint_step, list_checkpoints
from trainer.config import Recipe, load_recipe, reason_of, shipped_recipes, stored_recipe
from trainer.dataset import Dataset, open_dataset, require_complete
from trainer.errors import ConfigError
from trainer.files import file_lock, read_json
from trainer.run._options import ExtendOptions
from trainer.run._parent import Parent, extended, other_parent
from trainer.run._plan import DATASET, RECIPE, Plan, differences, plan_of, run_folders
from trainer.run._session import LOCK
from trainer.training import learning_rate

JUMP = 0.1  # share by which the learning rate may change from one step to the next
OVER = 1e-3  # share of the peak below which nothing is left to be cooled down
POINTS = 240  # of a curve


@dataclass(frozen=True)
class Extension:
    """What an extension would do, before it is begun."""

    plan: Plan
    step: int  # optimizer steps that the extended run has done
    steps_per_epoch: int
    ended_at: float  # learning rate of its last step …
    goes_on_at: float  # … and of the next
    # Learning rate from the first step of all to the last, at equal distances; empty where it has begun already.
    rates: tuple[float, ...]
    also: str = ""  # what else changes there, as words
    refusal: str = ""  # why it is not done, and what can be done instead; empty if it can

    @property
    def total(self) -> int:
        """Optimizer steps of both runs together."""
        return self.plan.recipe.epochs * self.steps_per_epoch

    def require_smooth(self) -> None:
        """Raises: ConfigError if it is not to be done."""
        if self.refusal:
            raise ConfigError(self.refusal)


def make_extension(options: ExtendOptions) -> Extension:
    """Check all that can be wrong with an extension. Nothing is written.

    Raises: ConfigError, DataError if there is nothing that could be extended so; a jump of the learning rate is told
        as `refusal`.
    """
    parent = extended(options)
    if begun := _begun(options, parent):
        return begun
    before, source = _stored(options.folder)
    checkpoints = list_checkpoints(options.folder / "checkpoints")
    if before is None or not checkpoints:
        raise ConfigError(
            f"{options.folder} is no run that has begun; give a folder that `trainer train` made, or fetch one with "
            "`trainer mirror RUN --restore`"
        )
    # One process looks for all: they would find each other's locks.
    if not ranks.launched_by_trainer() and ranks.rank() == 0 and (options.folder / LOCK).exists():
        busy = ConfigError(
            f"{options.folder} is being trained; wait for its end, or stop it, before you extend it"
        )
        with suppress(OSError), file_lock(options.folder / LOCK, timeout=0, otherwise=busy):
            pass  # on a disk that is only read, nobody trains
    step, dataset = checkpoint_step(checkpoints[0]), open_dataset(options.data or Path(source["source"]))
    if dataset.digest != source["digest"]:
        raise ConfigError(
            f"{options.folder} was trained on another data set than {dataset.root} ({source['name']} "
            f"{source['digest'][:10]}); give that with --data, or begin a new run with `trainer train --from`"
        )
    require_complete(dataset, partial=options.partial)
    steps_per_epoch = before.steps_per_epoch(len(dataset.train))
    if options.epochs * steps_per_epoch <= step:
        raise ConfigError(
            f"{options.folder} has done {step / steps_per_epoch:g} epochs already; give more with --epochs, those "
            "included"
        )
    return _compared(options, parent, before, dataset, step)


def _compared(
    options: ExtendOptions, parent: Parent, before: Recipe, dataset: Dataset, step: int
) -> Extension:
    """The extension, with the learning rates on both sides of `step`."""
    steps_per_epoch = before.steps_per_epoch(len(dataset.train))
    total = options.epochs * steps_per_epoch
    was = learning_rate(before, steps_per_epoch=steps_per_epoch)
    ended_at = was(max(step - 1, 0))
    recipe = _longer(before, options, ended_at=ended_at, share_left=(total - step) / total)
    try:
        will_be = learning_rate(recipe, steps_per_epoch=steps_per_epoch)
    except ValueError as error:
        raise ConfigError(
            f"{options.folder} cannot be extended to {options.epochs} epochs: {error}"
        ) from None
    # A drop that its own schedule would have made here is none of ours.
    expected = [ended_at] + [was(step)] * (step < before.epochs * steps_per_epoch)
    goes_on_at = will_be(step)
    jumps = not any(math.isclose(goes_on_at, rate, rel_tol=JUMP) for rate in expected)
    steps = [total * at // POINTS for at in range(POINTS)]
    return Extension(
        plan_of(recipe, dataset, replace(options, name=_name(options)), parent),
        step,
        steps_per_epoch,
        ended_at,
        goes_on_at,
        tuple((was if at < step else will_be)(at) for at in steps),
        also=_also(before, recipe, max(step - 1, 0) // steps_per_epoch, step // steps_per_epoch),
        refusal=_refusal(options, before, ended_at, goes_on_at, step / steps_per_epoch, jumps=jumps),
    )


def _also(before: Recipe, recipe: Recipe, last: int, first: int) -> str:
    """What else changes between the last epoch of the run and the first of its extension, as words."""
    sizes, changes = (before.train_size(last), recipe.train_size(first)), []
    if sizes[0] != sizes[1]:
        changes.append(f"crops go from {sizes[0]} px to {sizes[1]} px")
    settings = recipe.at(first).differences(before.at(last).as_dict())
    for key, (was, is_now) in settings.items():
        if not key.startswith(
            ("epochs", "optimizer.", "schedule.", "preprocess.train_size", "preprocess.min_res")
        ):
            changes.append(f"{key} goes from {was} to {is_now}")
    return ", ".join(changes)


def _longer(before: Recipe, options: ExtendOptions, *, ended_at: float, share_left: float) -> Recipe:
    """The recipe of the extended run; a cool-down is the end of a straight line whose beginning nobody trained."""
    try:
        if not options.cooldown:
            return replace(before, epochs=options.epochs)
        start = ended_at / share_left * 256 / before.global_batch
        return replace(
            before,
            epochs=options.epochs,
            optimizer=replace(before.optimizer, base_lr=start),
            schedule=replace(before.schedule, name="linear", warmup_epochs=0, momentum_range=None),
        )
    except ValueError as error:
        raise ConfigError(
            f"{options.folder} cannot be extended to {options.epochs} epochs: {reason_of(error)}"
        ) from None


def _refusal(
    options: ExtendOptions, before: Recipe, ended_at: float, goes_on_at: float, done: float, *, jumps: bool
) -> str:
    cold = ended_at < OVER * before.peak_lr
    if not jumps and not (options.cooldown and cold):
        return ""
    over = f"{options.folder} ended with a learning rate of {ended_at:.3g}, {before.peak_lr:.3g} at its peak"
    run, epochs = shlex.quote(str(options.folder)), max(1, round(options.epochs - done))
    cycle = (
        f"for a new cycle begin a run with its weights: `trainer train {_words(before)} --from {run} --set "
        f"epochs={epochs} --set schedule.warmup_epochs=0 --set optimizer.base_lr={before.optimizer.base_lr / 10:.3g}`"
    )
    if options.cooldown:
        return f"{over}: nothing is left to be cooled down; {cycle}"
    cooldown = (
        f"`trainer extend {run} --epochs {options.epochs} --cooldown` lets it fall to zero from where it is; "
    )
    return (
        f"{over}: it would jump to {goes_on_at:.3g}, which undoes what the end of its schedule has gained; "
        f"{'' if cold else cooldown}{cycle}"
    )


def _words(recipe: Recipe) -> str:
    """The recipe as arguments of `trainer train`."""
    if recipe.name not in shipped_recipes():
        return "RECIPE"
    own = {"epochs", "schedule.warmup_epochs", "optimizer.base_lr", "name"}  # which are given anew
    there = load_recipe(recipe.name).differences(recipe.as_dict())
    sets = (f"{key}={json.dumps(theirs)}" for key, (theirs, _) in there.items() if key not in own)
    return " ".join([recipe.name, *(f"--set {shlex.quote(one)}" for one in sets)])


def _begun(options: ExtendOptions, parent: Parent) -> Extension | None:
    """The extension that an earlier call has begun: it needs the extended run no more."""
    for folder in run_folders(options.runs, _name(options)):
        recipe, source = _stored(folder)
        checkpoints = list_checkpoints(folder / "checkpoints")
        if (
            recipe is None
            or not checkpoints
            or recipe.epochs != options.epochs
            or other_parent(folder, parent)
        ):
            continue
        dataset = open_dataset(options.data or Path(source["source"]))
        if others := differences(folder, recipe, dataset, parent):
            raise ConfigError(f"the extension in {folder} was begun with {others}; give that with --data")
        steps_per_epoch = recipe.steps_per_epoch(len(dataset.train))
        lr_at, step = learning_rate(recipe, steps_per_epoch=steps_per_epoch), checkpoint_step(checkpoints[0])
        plan = Plan(recipe, dataset, folder, parent)
        return Extension(plan, step, steps_per_epoch, lr_at(max(step - 1, 0)), lr_at(step), rates=())
    return None


def _name(options: ExtendOptions) -> str:
    """The name of the run, which is that of the extended one unless another is given."""
    return options.name or re.sub(r"-[0-9a-f]{10}$", "", options.folder.absolute().name)


def _stored(folder: Path) -> tuple[Recipe | None, dict[str, Any]]:
    """Recipe and data set of the run in `folder`; None and nothing if it holds none."""
    try:
        recipe, dataset = (read_json(folder / name) for name in (RECIPE, DATASET))
        {key: dataset[key] + "" for key in ("name", "digest", "source")}
    except (OSError, ValueError, LookupError, TypeError):
        return None, {}
    return stored_recipe(recipe), dataset
