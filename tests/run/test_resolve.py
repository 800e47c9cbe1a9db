"""A model in any of its forms: what is refused, and how. tests/cli/test_whole_way.py evaluates all six."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from tests.conftest import ALONE
from trainer.checkpoint import list_checkpoints
from trainer.config import Recipe
from trainer.dataset import Dataset
from trainer.errors import CheckpointError, ConfigError, DataError, ExportError
from trainer.run import Plan, resolve_model
from trainer.run._resolve import load_any
from trainer.tracking import NullLog
from trainer.training import train


@pytest.fixture(scope="module")
def run(tiny: Recipe, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that was trained but not finished: it has checkpoints and no model."""
    from dataclasses import replace

    recipe = replace(tiny, model="tests.nets:Small", epochs=2)
    folder = tmp_path_factory.mktemp("runs") / "small"
    folder.mkdir()
    Plan(recipe, dataset, folder).write()
    train(recipe, dataset, folder, ALONE, NullLog())
    return folder


def resolved(path: Path | str) -> torch.Tensor:
    model = resolve_model(str(path), runs=Path("runs"), device=torch.device("cpu"))
    assert model.classes == ("cat", "dog")
    assert (model.preprocess.val_resize, model.preprocess.val_size) == (36, 32)
    with torch.inference_mode():
        return model.network(torch.ones(2, 3, 32, 32))


def test_a_run_folder_is_its_newest_checkpoint_and_best_is_a_link_to_one(run: Path) -> None:
    newest = list_checkpoints(run / "checkpoints")[0]

    assert torch.equal(resolved(run), resolved(newest))
    assert resolved(run / "checkpoints" / "best.pt").shape == (2, 2)


def test_an_unfinished_run_knows_its_classes_and_has_samples_of_its_data_set(run: Path) -> None:
    loaded = load_any(str(run), runs=Path("runs"))

    assert loaded.info.classes == ("cat", "dog")
    assert loaded.registered is None
    assert len(loaded.samples) == 8


def test_without_its_data_set_a_checkpoint_can_be_evaluated_but_has_no_samples(
    run: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(run, tmp_path / "moved", symlinks=True)
    facts = json.loads((moved / "dataset.json").read_text())
    (moved / "dataset.json").write_text(json.dumps({**facts, "source": "/nowhere"}))

    assert torch.equal(resolved(moved), resolved(run))
    assert load_any(str(moved), runs=Path("runs")).samples == ()


@pytest.mark.parametrize("name", ["recipe.json", "dataset.json"])
def test_a_checkpoint_outside_of_its_run_is_refused_with_what_is_missing(
    run: Path, tmp_path: Path, name: str
) -> None:
    moved = shutil.copytree(run, tmp_path / "moved", symlinks=True)
    (moved / name).unlink()

    with pytest.raises(ConfigError, match=f"no readable {name} at"):
        resolved(moved)


def test_a_checkpoint_of_another_network_is_refused(run: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(run, tmp_path / "moved", symlinks=True)
    recipe = json.loads((moved / "recipe.json").read_text())
    (moved / "recipe.json").write_text(json.dumps({**recipe, "model": "resnet18"}))

    with pytest.raises(DataError, match="does not fit the network"):
        resolved(moved)


def test_what_is_no_model_is_refused_with_all_forms(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "weights.pt").write_bytes(b"")
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "model.onnx").write_bytes(b"")

    with pytest.raises(ConfigError, match=r"there is no model foo; give models:/NAME@ALIAS, .* a bundle"):
        resolved("foo")
    with pytest.raises(ConfigError, match="holds neither a run with checkpoints nor a bundle"):
        resolved(tmp_path / "empty")
    with pytest.raises((ConfigError, CheckpointError)):
        resolved(tmp_path / "weights.pt")
    with pytest.raises(ExportError, match="is an exported bundle already"):
        load_any(str(tmp_path / "bundle"), runs=Path("runs"))
