"""What a run begins with, where that is another run or model; part of what makes it this run. Found without torch.

A run folder keeps it as `parent.json`: how the user has named it, and once the run has begun, what that was then.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from trainer.files import read_json
from trainer.run._options import ExtendOptions, RunOptions, TrainOptions, Weights

PARENT = "parent.json"


@dataclass(frozen=True, kw_only=True)
class Parent:
    """The model that a run begins with, or the run that it extends."""

    model: str  # as it can be loaded: any form of a model but a bundle, or a run folder
    name: str  # as it is compared: a path is that from the folder of runs, so that all may move together
    weights: Weights | None = None  # of a checkpoint
    takes: Literal["weights", "all", "all, cooled down"] = "weights"  # all: optimizer and progress as well
    trust: bool = False  # take a registered version that is not sealed; says nothing of what it is

    def as_dict(self) -> dict[str, Any]:
        """What makes it this parent, as plain data."""
        return {"name": self.name, "weights": self.weights, "takes": self.takes}

    def describe(self) -> str:
        """It in a word or two."""
        return self.name + (f" ({self.weights})" if self.weights else "")


def parent_of(options: RunOptions) -> Parent | None:
    """The parent that the options of a run name; None if it begins with nothing."""
    if not isinstance(options, TrainOptions) or not options.from_:
        return None
    name = named(options.from_, options.runs)
    return Parent(model=options.from_, name=name, weights=options.weights, trust=options.trust)


def extended(options: ExtendOptions) -> Parent:
    """The parent of an extension."""
    name = named(str(options.folder), options.runs)
    return Parent(
        model=str(options.folder), name=name, takes="all, cooled down" if options.cooldown else "all"
    )


def named(model: str, runs: Path) -> str:
    """`model`, and if it is a path, that from `runs` if it lies there, else the whole."""
    # A path stays one when what it led to is gone: a run that has begun needs its parent no more.
    if model.startswith(("models:/", "runs:/")) or not (os.sep in model or os.path.exists(model)):
        return model
    path, below = os.path.abspath(model), os.path.abspath(runs) + os.sep
    return path.removeprefix(below)


def read_parent(folder: Path) -> dict[str, Any] | None:
    """What is stored of the parent of the run in `folder`; None if it has none."""
    try:
        content = read_json(folder / PARENT)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def parent_tags(folder: Path) -> dict[str, str]:
    """What the run in `folder` has begun with, as tags of its run; empty if with nothing."""
    tags = (read_parent(folder) or {}).get("tags", {})
    return {str(key): str(value) for key, value in tags.items()} if isinstance(tags, dict) else {}


def other_parent(folder: Path, parent: Parent | None) -> str:
    """How the parent of the run in `folder` differs from this one, as words; empty if it does not."""
    stored, ours = read_parent(folder), parent.as_dict() if parent else None
    if stored is None or ours is None:
        same = stored is None and ours is None
    else:
        same = all(stored.get(key) == value for key, value in ours.items())
    if same:
        return ""
    theirs = (
        f"from={stored.get('name')} ({stored.get('weights') or stored.get('takes')})"
        if stored
        else "no --from"
    )
    return f"{theirs} instead of {parent.describe() if parent else 'none'}"
