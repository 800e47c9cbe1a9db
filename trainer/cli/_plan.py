"""What a run is to be made of, and where: found out without torch, which takes seconds to import."""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

from trainer.config import Recipe, load_recipe
from trainer.dataset import Dataset, open_dataset


@dataclass(frozen=True)
class Plan:
    """A run that can be made of these settings and images."""

    recipe: Recipe
    dataset: Dataset
    folder: Path


def make_plan(options: argparse.Namespace) -> Plan:
    """Look for all that can be wrong with what `train` was given; nothing is written.

    Raises: ConfigError, DataError.
    """
    recipe, dataset = load_recipe(options.recipe, options.set), open_dataset(options.data)
    recipe.steps_per_epoch(len(dataset.train))
    # The same settings and images are the same run, so the same command goes on where it was.
    folder = options.runs / f"{options.name or recipe.name}-{recipe.digest()[:6]}{dataset.digest[:4]}"
    return Plan(recipe, dataset, folder)
