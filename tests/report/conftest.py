"""A run that was trained on images with hostile names, and its data set."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import ALONE, write_photo
from trainer.config import Phase, Recipe
from trainer.dataset import Dataset, folder, open_dataset, prepare
from trainer.predictions import write_predictions
from trainer.run._metadata import dataset_info
from trainer.run._plan import Plan
from trainer.tracking import Journal, RunInfo
from trainer.training import train

HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture(scope="package")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """Three classes of ten validation photos each; one class, and its files, are called like markup."""
    root = tmp_path_factory.mktemp("hostile")
    for index in range(60):
        kind = ("cat", HOSTILE, "=dog & 'cow'")[index % 3]
        split = "train" if index < 30 else "val"
        name = f"</script>{index:03d}.JPEG" if index % 2 else f"{index:03d}.JPEG"
        write_photo(
            root / split / kind / name.replace("/", "\N{DIVISION SLASH}"),
            width=60 + index,
            height=50,
            seed=index,
        )
    prepare(folder(root, out=root), root)
    return open_dataset(root)


@pytest.fixture(scope="package")
def finished(tiny: Recipe, hostile: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with everything that the end of a training leaves for its report."""
    recipe = replace(
        tiny,
        model="tests.nets:Small",
        epochs=2,
        bar=0.99,
        description="a <b>bold</b> recipe",
        phases=(Phase(at=0.5, mixup=0.1),),
    )
    run = tmp_path_factory.mktemp("runs") / "small-0123456789"
    run.mkdir()
    Plan(recipe, hostile, run).write()
    log = Journal(run)
    tags = {"recipe": recipe.name, "gpu": "cpu", "usd_per_hour": "0.5", "git_commit": "abc"}
    log.start(RunInfo(run.name, "small", recipe.flat(), tags, dataset_info(hostile)))
    _, accuracy = train(recipe, hostile, run, ALONE, log)
    write_predictions(run, accuracy.predictions)
    log.finish("finished")
    return run
