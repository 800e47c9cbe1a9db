"""What is loaded is what was registered: whole, or refused with what there is."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from tests.tracking.conftest import Server
from tests.tracking.models import finished_run, network, register_it
from trainer.errors import TrackingError
from trainer.tracking import load_model
from trainer.tracking._saved_model import INFO as INFO_FILE


def test_a_run_names_its_newest_version(runs: Path) -> None:
    registered = register_it(finished_run(runs / "r"), network())

    assert load_model(f"runs:/{registered.run_id}", runs=runs).registered == registered
    assert load_model(f"runs:/{registered.run_id}/model", runs=runs).registered == registered


@pytest.mark.parametrize(
    ("uri", "sentence"),
    [
        ("models:/tyni@candidate", r"there is no registered model tyni at .*; registered are tiny$"),
        (
            "models:/tiny@champion",
            r"there is no models:/tiny@champion; of tiny there are @candidate \(version 1\), /1$",
        ),
        ("models:/tiny/7", r"there is no models:/tiny/7; of tiny there are @candidate \(version 1\), /1$"),
        ("runs:/0123", r"run 0123 has no registered model at .*; registered are tiny$"),
        ("tiny", r"'tiny' names no model; write models:/NAME@ALIAS, models:/NAME/VERSION or runs:/RUN_ID$"),
    ],
)
def test_what_does_not_exist_is_named_with_what_does(runs: Path, uri: str, sentence: str) -> None:
    register_it(finished_run(runs / "r"), network())

    with pytest.raises(TrackingError, match=sentence):
        load_model(uri, runs=runs)


def test_an_empty_registry_and_a_missing_one_are_named(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="nothing is registered there yet, train first"):
        load_model("models:/tiny@candidate", runs=runs)
    with pytest.raises(TrackingError, match=r"there is no .*/nowhere/mlflow\.db"):
        load_model("models:/tiny@candidate", runs=tmp_path / "nowhere")

    assert not (tmp_path / "nowhere").exists()


def test_a_damaged_model_is_refused(runs: Path) -> None:
    register_it(finished_run(runs / "r"), network())
    (stored,) = (runs / "artifacts").rglob("model.pt2")
    data = bytearray(stored.read_bytes())
    data[len(data) // 2] ^= 1
    stored.write_bytes(data)

    with pytest.raises(TrackingError, match="is damaged"):
        load_model("models:/tiny@candidate", runs=runs)


def test_a_sample_that_would_be_written_elsewhere_is_refused(runs: Path) -> None:
    register_it(finished_run(runs / "r"), network())
    (info,) = (runs / "artifacts").rglob(INFO_FILE)
    info.write_text(info.read_text().replace('"a.JPEG"', '"../a.JPEG"'))

    with pytest.raises(TrackingError, match="missing or unreadable"):
        load_model("models:/tiny@candidate", runs=runs)


def test_a_model_of_somebody_else_is_refused(runs: Path) -> None:
    register_it(finished_run(runs / "r"), network())
    (info,) = (runs / "artifacts").rglob(INFO_FILE)
    info.unlink()

    with pytest.raises(TrackingError, match="was not registered by `trainer train`"):
        load_model("models:/tiny/1", runs=runs)


def test_the_process_keeps_its_own_tracking_address(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    register_it(finished_run(runs / "r"), network())
    load_model("models:/tiny@candidate", runs=runs)

    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert os.listdir(tmp_path) == [runs.name]  # neither an mlflow.db nor an mlruns of MLflow's default


def test_a_model_goes_through_a_server_and_back(server: Server, tmp_path: Path) -> None:
    model, images = network(), torch.randn(3, 3, 16, 16)

    registered = register_it(finished_run(tmp_path / "r"), model)

    loaded = load_model("models:/tiny@candidate", runs=tmp_path)
    assert loaded.registered == registered
    torch.testing.assert_close(loaded.module(images), model(images), rtol=0, atol=0)
    with pytest.raises(TrackingError, match=rf"there is no registered model tyni at {server.uri}"):
        load_model("models:/tyni/1")
