"""What a run is made of and where it lives: found out without torch, which takes seconds to import."""

from __future__ import annotations

import errno
import glob
import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer import names, ranks
from trainer.config import Recipe, load_recipe
from trainer.dataset import Dataset, completeness, open_dataset, require_complete
from trainer.errors import ConfigError
from trainer.files import read_json, write_json
from trainer.run._options import RunOptions, TrackedOptions
from trainer.run._parent import PARENT, Parent, other_parent, parent_of
from trainer.tracking import ProofProcess, Question

RECIPE, DATASET = "recipe.json", "dataset.json"  # in the run folder: what the run is made of
MUCH = 200  # characters; runs whose differences take more are not alike
UNKNOWN = "no recipe"


@dataclass(frozen=True)
class Plan:
    """A run that can be made of this recipe and this data set."""

    recipe: Recipe
    dataset: Dataset
    folder: Path  # the run folder
    parent: Parent | None = None  # what it begins with
    news: str = ""  # how a new run differs from one that is there, as words; empty if none is alike

    def write(self) -> None:
        """Write down in the run folder what the run is made of, unless an earlier start has."""
        dataset = self.dataset
        files = {
            RECIPE: self.recipe.as_dict(),
            DATASET: {
                "name": dataset.name,
                "digest": dataset.digest,
                "source": str(dataset.root.resolve()),
                "counts": {
                    "train": len(dataset.train),
                    "val": len(dataset.val),
                    "classes": len(dataset.classes),
                },
                "completeness": as_published(dataset),
                "class_names": list(dataset.class_names),
            },
            **({PARENT: self.parent.as_dict()} if self.parent else {}),
        }
        # One alone is of a start that was cut off.
        if any(_stored(self.folder / name) is None for name in files):
            for name, content in files.items():
                write_json(self.folder / name, content)


def as_published(dataset: Dataset) -> str:
    """Whether a data set is as it was published, in words; empty where nobody published its classes."""
    against = completeness(dataset)
    return against.describe() if against else ""


def require_single_process(command: str) -> None:
    """Refuse to be one of several processes. Raises: ConfigError."""
    if ranks.world_size() > 1:
        raise ConfigError(
            f"trainer {command} is one process and was started as several; start it without torchrun"
        )


def make_plan(options: RunOptions) -> Plan:
    """Check everything that can be wrong with the recipe and the data set, and find the run's folder.

    The same settings and images are the same run: its folder is the one whose stored recipe and data set are these,
    else a new one. Nothing is written.

    Raises: ConfigError, DataError.
    """
    recipe, dataset = load_recipe(options.recipe, options.set), open_dataset(options.data)
    if recipe.classes not in (None, len(dataset.classes)):
        raise ConfigError(
            f"recipe {recipe.name} is for {recipe.classes:,} classes and {options.data} has {len(dataset.classes):,}; "
            f"use another recipe, another data set, or --set classes={len(dataset.classes)}"
        )
    recipe.steps_per_epoch(len(dataset.train))
    require_complete(dataset, partial=options.partial)
    return plan_of(recipe, dataset, options, parent_of(options))


def plan_of(recipe: Recipe, dataset: Dataset, options: TrackedOptions, parent: Parent | None) -> Plan:
    """The run of this recipe, data set and parent: the one that is there, else a new one.

    Raises: ConfigError.
    """
    name = options.name if options.name is not None else recipe.name
    try:
        names.folder_name(name)
    except ValueError as error:
        raise ConfigError(f"--name {name[:50]!r} cannot name a folder: {error}; give another") from None
    alike = {
        folder: differences(folder, recipe, dataset, parent, unknown=UNKNOWN)
        for folder in run_folders(options.runs, name)
    }
    for folder, others in alike.items():
        if not others:
            return Plan(recipe, dataset, folder, parent)
    made_of = recipe.digest()
    if parent:
        made_of = hashlib.sha256(json.dumps([made_of, parent.as_dict()]).encode()).hexdigest()
    folder = options.runs / f"{name}-{made_of[:6]}{dataset.digest[:4]}"
    if there := differences(folder, recipe, dataset, parent):
        raise ConfigError(
            f"the run in {folder} was begun with {there}; go on with its own settings (--set KEY=VALUE), or give "
            "the new run another --name"
        )
    if parent:
        return Plan(recipe, dataset, folder, parent)
    known = {run: others for run, others in alike.items() if others != UNKNOWN and len(others) <= MUCH}
    nearest = min(known, key=lambda run: len(known[run]), default=None)
    news = f"{nearest} has {known[nearest]}; this is a new run" if nearest else ""
    return Plan(recipe, dataset, folder, news=news)


def run_folders(runs: Path, name: str) -> list[Path]:
    """Folders of runs of this name."""
    try:
        if runs.exists() and not runs.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if (runs / RECIPE).exists():
            raise ConfigError(f"--runs {runs} is the folder of one run; give that of all runs, {runs.parent}")
        # Ten digits, or a run of another --name would be found as well: digits-2 beside digits.
        return sorted(runs.glob(f"{glob.escape(name)}-{'[0-9a-f]' * 10}"))
    except OSError as error:
        raise ConfigError(f"--runs {runs} cannot be used: {error.strerror}; choose another") from None


def proof_of(plan: Plan, options: TrackedOptions, *, dry: bool) -> ProofProcess:
    """What checks, beside this process, that MLflow will take the run; `dry`: and leaves a local store as it was."""
    recipe = plan.recipe
    return ProofProcess(Question(options.runs, recipe.experiment, recipe.registered_model_name, dry))


def differences(
    folder: Path, recipe: Recipe, dataset: Dataset, parent: Parent | None, *, unknown: str = ""
) -> str:
    """How the run in `folder` differs from these, as words; empty if it does not.

    Args:
        folder: a run folder, which need not exist.
        recipe: compared as a whole with the stored one, so that a default that has changed since shows.
        dataset: compared by its digest.
        parent: compared as it was named, whatever that name leads to by now.
        unknown: the answer where nothing is stored.
    """
    stored, trained_on = _stored(folder / RECIPE), _stored(folder / DATASET)
    if stored is None or trained_on is None:
        return unknown
    found = [
        f"{key}={_yaml(theirs)} instead of {_yaml(ours)}"
        for key, (theirs, ours) in recipe.differences(stored).items()
    ]
    if trained_on.get("digest") != dataset.digest:
        found.append(f"another data set ({trained_on.get('name')} {str(trained_on.get('digest'))[:10]})")
    if other := other_parent(folder, parent):
        found.append(other)
    return ", ".join(found)


def _stored(path: Path) -> dict[str, Any] | None:
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _yaml(value: Any) -> str:
    return json.dumps(value) if not isinstance(value, str) else value
