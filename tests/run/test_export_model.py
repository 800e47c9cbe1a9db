"""A MODEL in any form becomes a bundle; tests/export has what a bundle is."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import trainer.model
from tests.tracking.models import INFO, SAMPLES, VAL_IMAGES, finished_run, network, rebuild
from trainer.errors import ConfigError, DataError, ExportError, TrackingError
from trainer.export import read_variants
from trainer.model import build
from trainer.run import EvaluateOptions, evaluate_model, export_model
from trainer.run._export import _find_dataset
from trainer.run._resolve import load_any
from trainer.tracking import Sample, register, save_model


@pytest.fixture
def runs(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs" / "mlflow.db")
    return tmp_path / "runs"


def test_a_model_that_does_not_exist_is_refused_and_leaves_nothing(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()

    with pytest.raises(TrackingError, match="there is no registered model nobody"):
        export_model("models:/nobody@candidate", out / "bundle", runs=runs)

    assert list(out.iterdir()) == []


@pytest.mark.parametrize(
    ("architecture", "why"),
    [
        (
            "canary:Net",
            "is of the network canary:Net, which no run in .* was trained with, and is not imported",
        ),
        ("os:abort", "is of the network os:abort"),
        ("../canary", r"there is no architecture '\.\./canary'"),
        ("resnet18", "the weights are not those of resnet18 for 3 classes"),
    ],
)
def test_what_a_registered_model_calls_its_network_is_no_order_to_import_it(
    runs: Path,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    architecture: str,
    why: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "canary.py").write_text("raise SystemExit('sang')")
    info = replace(INFO, architecture=architecture)
    save_model(
        finished_run(runs / "r"),
        network(),
        info,
        SAMPLES,
        lambda _: (0.5, 1.0),
        rebuild=rebuild,
        name="tiny",
        num_images=VAL_IMAGES,
    )
    model = register(runs / "r").uri

    with pytest.raises(ConfigError, match=why):
        export_model(model, tmp_path / "bundle", runs=runs, trust=True)
    with pytest.raises(ConfigError, match=why):
        evaluate_model(EvaluateOptions(model=model, data=photos, runs=runs, device="cpu", trust=True))
    assert not (tmp_path / "bundle").exists()


def registered(photos: Path, runs: Path, run: str, seed: int, name: str) -> str:
    """A registered model of a new run; its name and version as in `models:/NAME/VERSION`."""
    folder = finished_run(runs / run)
    torch.manual_seed(seed)
    save_model(
        folder,
        build("resnet18", len(INFO.classes)).eval(),
        replace(INFO, architecture="resnet18"),
        [Sample("0.JPEG", next(photos.rglob("*.JPEG")).read_bytes(), 0)],
        lambda _: (0.5, 1.0),
        rebuild=lambda weights: trainer.model.rebuild("resnet18", len(INFO.classes), weights),
        name=name,
        num_images=VAL_IMAGES,
    )
    return register(folder).uri


@pytest.mark.slow
def test_a_recipe_means_the_candidate_of_its_registered_model(
    photos: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After another recipe was trained it is that one's model, with nothing else said."""
    monkeypatch.chdir(tmp_path)
    registered(photos, runs, "one", 1, "resnet50-digits")
    registered(photos, runs, "two", 2, "resnet50-imagenet")
    (tmp_path / "own.yaml").write_text("registered_model_name: resnet50-digits\n")

    exported = {recipe: export_model(recipe, runs=runs) for recipe in ("digits", "rn50-75", "own.yaml")}

    assert {recipe: (bundle.source, str(bundle.folder)) for recipe, bundle in exported.items()} == {
        "digits": ("models:/resnet50-digits/1", "export/resnet50-digits-1"),
        "rn50-75": ("models:/resnet50-imagenet/1", "export/resnet50-imagenet-1"),
        "own.yaml": ("models:/resnet50-digits/1", "export/resnet50-digits-1"),
    }
    with pytest.raises(TrackingError, match=r"no registered model resnet50-imagenette .*; registered are"):
        export_model("imagenette", runs=runs)


@pytest.mark.slow
def test_a_version_is_exported_once_and_a_bundle_that_is_not_it_is_left_alone(
    photos: Path, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    model = registered(photos, runs, "one", 1, "tiny")
    first, again = export_model(model, runs=runs), export_model(model, runs=runs)
    assert first.max_difference is not None
    assert (again.folder, again.max_difference, again.size) == (first.folder, None, first.size)

    registered(photos, runs, "two", 2, "tiny")
    first.folder.rename("export/tiny-2")
    with pytest.raises(ExportError, match="export/tiny-2 is of another model than models:/tiny/2; remove it"):
        export_model("models:/tiny/2", runs=runs)

    Path("export/tiny-2").rename("export/tiny-1")
    (first.folder / "labels.txt").write_text("other\n")
    with pytest.raises(ExportError, match="damaged"):
        export_model(model, runs=runs)


def test_a_runs_bundle_is_measured_on_the_data_set_that_its_folder_names(run: Path, tmp_path: Path) -> None:
    bundle = export_model(str(run), tmp_path / "bundle", runs=run.parent, device="cpu")
    measured = read_variants(bundle.folder)

    assert (measured.images, measured.of) == (9, 9)
    assert measured.find("model.onnx").top1 == measured.pytorch_top1
    assert export_model(str(run), bundle.folder, runs=run.parent).max_difference is None, "it is there"
    for other in ({"formats": ["pt2"]}, {"parity": 0}, {"parity": 5}, {"data": tmp_path}):
        with pytest.raises(
            ConfigError, match=r"holds a bundle .* already, which .* do not change; remove it, or"
        ):
            export_model(str(run), bundle.folder, runs=run.parent, **other)


def test_a_data_set_that_is_not_the_models_is_refused_if_it_was_given_and_else_done_without(
    run: Path, digits: Path, tmp_path: Path
) -> None:
    with pytest.raises(
        DataError, match=r"is another data set than .* was trained on; give that one with --data"
    ):
        export_model(str(run), tmp_path / "bundle", runs=run.parent, data=digits, device="cpu")

    moved = shutil.copytree(run, tmp_path / "runs" / run.name)
    trained_on = json.loads((moved / "dataset.json").read_text())
    for source, why in (
        (str(digits), "is not the one that it was trained on"),
        ("/nowhere", "is not in /nowhere"),
    ):
        (moved / "dataset.json").write_text(json.dumps({**trained_on, "source": source}))
        found = _find_dataset(load_any(str(moved), runs=run.parent), moved.parent, None)
        assert found.dataset is None
        assert why in found.missing


def test_what_is_no_registered_version_cannot_be_logged(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--log sends the bundle to a registered version, and .* is none"):
        export_model(str(run), tmp_path / "bundle", runs=run.parent, log=True)
