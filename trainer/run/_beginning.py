"""A run begins with a parent: its weights, or all that it had, become the first checkpoint of the new run.

From then on nothing asks for the parent any more, and the loop goes on from that checkpoint as from any other, in all
processes alike.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint import (
    BEGINNING,
    checkpoint_step,
    list_checkpoints,
    load_checkpoint,
    write_checkpoint,
)
from trainer.distributed import World
from trainer.errors import CheckpointError, ConfigError
from trainer.files import write_json
from trainer.model import classifier_tensors
from trainer.run._parent import PARENT, Parent, parent_tags
from trainer.run._plan import Plan
from trainer.run._resolve import load_weights
from trainer.tracking import BEGUN, PARENT_RUN, LoadedModel, run_that_made, weights_sha256
from trainer.training import make_model

NAMED = 3  # layers that a sentence names

logger = logging.getLogger(__name__)
Tensors = Mapping[str, torch.Tensor]


@dataclass(frozen=True)
class Beginning:
    """What a run begins with."""

    step: int  # optimizer steps that are done
    states: dict[str, dict[str, Any]]  # as in a checkpoint; what is not in it begins as it is made
    tags: dict[str, str]  # where it is from
    said: str  # the same in a sentence


def check_beginning(plan: Plan, runs: Path) -> None:
    """See that the run can begin with its parent, and say what that is; nothing is written.

    Args:
        plan: of the run.
        runs: folder of one's own runs.

    Raises: ConfigError if the parent's weights are another network's; else as `load_weights`.
    """
    if plan.parent is None:
        return
    if _has_begun(plan):
        tags = parent_tags(plan.folder)
        logger.info(
            "this run began with %s (weights %s); what %s leads to by now does not change it",
            tags.get("parent_model", plan.parent.name),
            tags.get("parent_digest", "")[:10],
            plan.parent.name,
        )
    else:
        logger.info("%s", _beginning(plan, plan.parent, runs).said)


def begin(plan: Plan, runs: Path) -> None:
    """Make the parent the run's first checkpoint, unless there is one.

    Args:
        plan: of the run, whose folder is there.
        runs: folder of one's own runs.

    Raises: as `check_beginning`.
    """
    if plan.parent is None or _has_begun(plan):
        return
    made, dataset = _beginning(plan, plan.parent, runs), plan.dataset
    write_json(plan.folder / PARENT, {**plan.parent.as_dict(), "tags": made.tags})
    checkpoints = plan.folder / "checkpoints"
    checkpoints.mkdir(exist_ok=True)
    content = {
        "recipe": plan.recipe.as_dict(),
        "dataset_digest": dataset.digest,
        "classes": dict(zip(dataset.classes, dataset.class_names, strict=True)),
        "states": made.states,
        BEGINNING: True,
    }
    write_checkpoint(checkpoints, made.step, content)


def _has_begun(plan: Plan) -> bool:
    return bool(list_checkpoints(plan.folder / "checkpoints"))


def _beginning(plan: Plan, parent: Parent, runs: Path) -> Beginning:
    return _with_weights(plan, parent, runs) if parent.takes == "weights" else _with_all(plan, parent, runs)


def _with_weights(plan: Plan, parent: Parent, runs: Path) -> Beginning:
    recipe, dataset = plan.recipe, plan.dataset
    loaded = load_weights(parent.model, runs=runs, weights=parent.weights, trust=parent.trust)
    with torch.random.fork_rng([]):
        torch.manual_seed(recipe.seed)
        # Its buffers and parameters are those of SyncBatchNorm, which the CPU lacks.
        plain = replace(recipe, sync_batch_norm=False)
        fresh = make_model(plain, len(dataset.classes), World(0, 1, torch.device("cpu"))).state_dict()
    classifier = classifier_tensors(recipe.model, len(dataset.classes))
    same_classes = loaded.info.class_ids == dataset.classes
    anew = frozenset() if same_classes else classifier
    _require_fitting(fresh, loaded.state_dict, anew, f"--from {parent.model}", recipe.model)
    weights = {name: value if name in anew else loaded.state_dict[name] for name, value in fresh.items()}
    # BatchNorm's statistics are among the weights. A step of -1 is before all, so that step 0 is evaluated.
    states: dict[str, dict[str, Any]] = {
        "model": weights,
        "progress": {"evaluated": -1 if same_classes else 0},
    }
    if recipe.uses_ema:
        states["ema"] = {"weights": weights, "updates": 1}
    # In the order of the network, as the digest of a registered version has them.
    in_order = {name: loaded.state_dict[name] for name in fresh if name in loaded.state_dict}
    loaded = replace(loaded, state_dict=in_order)
    tags = _tags(loaded, parent.weights or "registered", recipe.experiment, runs)
    said = f"begins with the weights of {tags['parent_model']} ({tags['parent_digest'][:10]})"
    if math.isfinite(loaded.info.top1):
        said += f", top-1 {loaded.info.top1:.2%} there"
    if anew:
        said += f"; its classifier ({', '.join(sorted(anew))}) is initialised anew: " + _other_classes(
            loaded.info.class_ids, dataset.classes
        )
    return Beginning(0, states, tags, said)


def _with_all(plan: Plan, parent: Parent, runs: Path) -> Beginning:
    """All that the newest checkpoint of a run holds, with its best evaluation forgotten: that is the parent's."""
    checkpoints = list_checkpoints(Path(parent.model) / "checkpoints")
    if not checkpoints:
        raise CheckpointError(f"{parent.model} has no checkpoint to go on from; give a run that has begun")
    step = checkpoint_step(checkpoints[0])
    content = load_checkpoint(checkpoints[0])
    if content["dataset_digest"] != plan.dataset.digest:
        raise CheckpointError(
            f"{checkpoints[0]} belongs to a run on another data set; look what is in that folder"
        )
    steps_per_epoch = plan.recipe.steps_per_epoch(len(plan.dataset.train))
    states = dict(content["states"])
    # At the end of an epoch it is evaluated again: the first point of the new run, and its best until a better one.
    states["progress"] = {**states["progress"], "evaluated": step - 1, "best": 0, "best_top1": 0.0}
    loaded = load_weights(str(checkpoints[0]), runs=runs)
    tags = _tags(loaded, "all", plan.recipe.experiment, runs)
    tags[BEGUN] = f"{step / steps_per_epoch:g}"
    said = (
        f"goes on from {tags['parent_model']} ({tags['parent_digest'][:10]}), with optimizer and EMA, at step {step:,} "
        f"of {plan.recipe.epochs * steps_per_epoch:,}"
    )
    return Beginning(step, states, tags, said)


def _require_fitting(ours: Tensors, theirs: Tensors, anew: frozenset[str], what: str, network: str) -> None:
    """Raises: ConfigError that names the layers, if the weights are those of another network."""
    wrong = []
    for name in sorted({*ours, *theirs} - anew):
        if name not in theirs:
            wrong.append(f"{name} is missing there")
        elif name not in ours:
            wrong.append(f"{name} is not in it")
        elif ours[name].shape != getattr(theirs[name], "shape", None):
            shape = tuple(getattr(theirs[name], "shape", ()))
            wrong.append(f"{name} is {shape} there instead of {tuple(ours[name].shape)}")
    if wrong:
        more = f", and {len(wrong) - NAMED:,} more" if len(wrong) > NAMED else ""
        raise ConfigError(
            f"{what}: its weights are not those of {network}: {', '.join(wrong[:NAMED])}{more}; give a model of the "
            "same network, or train that network with --set model=NAME"
        )


def _other_classes(theirs: tuple[str, ...], ours: tuple[str, ...]) -> str:
    if len(theirs) != len(ours):
        return f"it knows {len(theirs):,} classes, and there are {len(ours):,} here"
    at = next(at for at, pair in enumerate(zip(theirs, ours, strict=True)) if pair[0] != pair[1])
    return (
        f"it knows other classes or has them in another order (number {at} is {theirs[at]}, here {ours[at]})"
    )


def _tags(loaded: LoadedModel, weights: str, experiment: str, runs: Path) -> dict[str, str]:
    tags = {
        "parent_model": loaded.source,
        "parent_digest": weights_sha256(loaded.state_dict),
        "parent_weights": weights,
    }
    if made_by := run_that_made(loaded, runs):
        run_id, theirs = made_by
        tags["parent_run_id"] = run_id
        if theirs == experiment:
            tags[PARENT_RUN] = run_id
    return tags
