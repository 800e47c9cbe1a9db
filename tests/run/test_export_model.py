"""A MODEL in any form becomes a bundle; tests/export has what a bundle is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.tracking.models import INFO, SAMPLES, VAL_IMAGES, finished_run, network, rebuild
from trainer.errors import ConfigError, TrackingError
from trainer.run import EvaluateOptions, evaluate_model, export_model
from trainer.tracking import register, save_model
from trainer.tracking._server import connect


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    connect(f"sqlite:///{tmp_path / 'runs' / 'mlflow.db'}")
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
