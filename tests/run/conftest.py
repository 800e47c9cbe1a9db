"""A run that several tests of this room look at."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import ALONE
from trainer.config import Recipe
from trainer.dataset import Dataset
from trainer.run import Plan
from trainer.tracking import NullLog
from trainer.training import train


@pytest.fixture(scope="module")
def run(tiny: Recipe, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained but not finished: it has checkpoints and no model."""
    recipe = replace(tiny, model="tests.nets:Small", epochs=2)
    folder = tmp_path_factory.mktemp("runs") / "small"
    folder.mkdir()
    Plan(recipe, dataset, folder).write()
    train(recipe, dataset, folder, ALONE, NullLog())
    return folder
