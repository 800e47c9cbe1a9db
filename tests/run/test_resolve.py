"""A model in any of its forms: what is refused, and how. tests/cli/test_whole_way.py evaluates all six."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from trainer.checkpoint import list_checkpoints, load_checkpoint
from trainer.checkpoint._files import write_content
from trainer.errors import CheckpointError, ConfigError, ExportError
from trainer.run import resolve_model
from trainer.run._resolve import load_any


@pytest.fixture
def runs(run: Path) -> Path:
    return run.parent


def resolved(path: Path | str, runs: Path = Path("runs")) -> torch.Tensor:
    model = resolve_model(str(path), runs=runs, device=torch.device("cpu"))
    assert model.class_ids == ("cat", "dog")
    assert (model.preprocess.val_resize, model.preprocess.val_size) == (36, 32)
    with torch.inference_mode():
        return model.network(torch.ones(2, 3, 32, 32))


def test_a_run_folder_is_its_newest_checkpoint_and_best_is_a_link_to_one(run: Path, runs: Path) -> None:
    newest = list_checkpoints(run / "checkpoints")[0]

    assert torch.equal(resolved(run, runs), resolved(newest, runs))
    assert resolved(run / "checkpoints" / "best.pt", runs).shape == (2, 2)


def test_an_unfinished_run_knows_its_classes_its_accuracy_and_has_samples(run: Path, runs: Path) -> None:
    loaded = load_any(str(run), runs=runs)

    assert (loaded.info.class_ids, loaded.info.classes) == (("cat", "dog"), ("cat", "dog"))
    assert 0 <= loaded.info.top1 <= loaded.info.top5 == 1
    assert loaded.registered is None
    assert len(loaded.samples) == 8


def test_without_its_data_set_a_checkpoint_can_be_evaluated_but_has_no_samples(
    run: Path, runs: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(run, tmp_path / "moved", symlinks=True)
    facts = json.loads((moved / "dataset.json").read_text())
    (moved / "dataset.json").write_text(json.dumps({**facts, "source": "/nowhere"}))

    assert torch.equal(resolved(moved, runs), resolved(run, runs))
    assert load_any(str(moved), runs=runs).samples == ()


@pytest.mark.parametrize("name", ["recipe.json", "dataset.json", "journal.jsonl"])
@pytest.mark.parametrize("content", [None, "", "[]", '{"model": "resnet18", "class_names": ["dog", "cat"]}'])
def test_what_lies_beside_a_checkpoint_says_nothing_of_its_model(
    run: Path, runs: Path, tmp_path: Path, name: str, content: str | None
) -> None:
    """All that counts is in the file, under the digest in its name."""
    moved = shutil.copytree(run, tmp_path / "moved", symlinks=True)
    (moved / name).unlink(missing_ok=True)
    if content is not None:
        (moved / name).write_text(content)

    assert torch.equal(resolved(moved, runs), resolved(run, runs))
    assert load_any(str(moved), runs=runs).info == load_any(str(run), runs=runs).info


def test_a_network_is_imported_only_if_one_of_the_users_runs_was_trained_with_it(
    run: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that came from somewhere names what is imported, and in the user's folder lies anything."""
    monkeypatch.chdir(tmp_path)
    content = load_checkpoint(run / "checkpoints" / "best.pt")
    content["recipe"]["model"] = "canary:Net"
    (tmp_path / "canary.py").write_text("raise SystemExit('sang')")
    path = tmp_path / "stranger" / "checkpoints" / "step-00000001-0123456789abcdef.pt"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        digest = write_content(content, file)
    path.rename(path.with_name(f"step-00000001-{digest}.pt"))

    for strangers in (tmp_path / "stranger", path.with_name(f"step-00000001-{digest}.pt")):
        with pytest.raises(
            ConfigError, match=r"is of the network canary:Net, which no run in .* was trained with"
        ):
            resolved(strangers, runs)


def test_a_checkpoint_of_another_network_is_refused(run: Path, runs: Path, tmp_path: Path) -> None:
    content = load_checkpoint(run / "checkpoints" / "best.pt")
    content["recipe"]["model"] = "resnet18"
    with (tmp_path / "draft").open("wb") as file:
        digest = write_content(content, file)
    path = (tmp_path / "draft").rename(tmp_path / f"step-00000001-{digest}.pt")

    with pytest.raises(ConfigError, match="the weights are not those of resnet18 for 2 classes"):
        resolved(path, runs)


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
