"""What is registered is what was measured, and it comes back whole or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from trainer.errors import TrackingError
from trainer.tracking import (
    DatasetInfo,
    Journal,
    ModelInfo,
    Registered,
    Sample,
    load,
    register,
    save_model,
    sync,
    tracking_uri,
)
from trainer.tracking._server import connect

if TYPE_CHECKING:
    from tests.tracking.conftest import Server

IMAGES = {"val_resize": 18, "val_size": 16, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}
FACTS = ModelInfo(
    "tiny", ("cat", "dog", "eel"), IMAGES, "photos", top1=0.5, top5=1.0, dataset_digest="d" * 64
)
SAMPLES = [Sample("a.JPEG", b"one", 0), Sample("b.JPEG", b"two", 2)]
VAL_IMAGES = 40


def network(seed: int = 0) -> torch.nn.Module:
    """A convolution, BatchNorm with statistics of its own, and a linear layer; channels-last."""
    torch.manual_seed(seed)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 3),
    )  # fmt: skip
    layers(torch.randn(16, 3, 16, 16))
    return layers.to(memory_format=torch.channels_last).eval()


def finished_run(folder: Path) -> Path:
    journal = Journal(folder)
    journal.start(
        name=folder.name,
        experiment="photos",
        params={"epochs": 3},
        tags={},
        dataset=DatasetInfo("p", "d", "/d"),
    )
    journal.finish("finished")
    return folder


def register_it(
    folder: Path,
    model: torch.nn.Module,
    *,
    measured: tuple[float, float] = (0.5, 1.0),
    samples: list[Sample] = SAMPLES,
) -> Registered:
    save_model(folder, model, FACTS, samples, lambda _: measured, name="tiny", images=VAL_IMAGES)
    return register(folder)


def test_the_registered_model_answers_bit_for_bit_like_the_measured_one(runs: Path) -> None:
    model, measured = network(), []
    images = torch.randn(64, 3, 16, 16).to(memory_format=torch.channels_last)

    def measure(loaded: torch.nn.Module) -> tuple[float, float]:
        measured.append(loaded)
        return 0.5, 1.0

    save_model(finished_run(runs / "r"), model, FACTS, SAMPLES, measure, name="tiny", images=VAL_IMAGES)
    register(runs / "r")

    loaded = load("models:/tiny@candidate", runs=runs)
    for module in (*measured, loaded.module):
        for batch in (1, 2, 7, 64):
            with torch.inference_mode():
                torch.testing.assert_close(module(images[:batch]), model(images[:batch]), rtol=0, atol=0)
    assert len(measured) == 1
    assert (loaded.facts, list(loaded.samples)) == (FACTS, SAMPLES)
    assert loaded.state_dict.keys() == model.state_dict().keys()
    twin = network(seed=1)
    twin.load_state_dict(loaded.state_dict)
    torch.testing.assert_close(twin(images), model(images), rtol=0, atol=0)


def test_a_model_in_train_mode_is_left_so_and_registered_in_eval_mode(runs: Path) -> None:
    model, images = network().train(), torch.randn(8, 3, 16, 16)

    register_it(finished_run(runs / "r"), model)

    assert model.training
    assert all(parameter.requires_grad for parameter in model.parameters())
    loaded = load("models:/tiny@candidate", runs=runs).module
    torch.testing.assert_close(loaded(images), model.eval()(images), rtol=0, atol=0)


def test_the_version_tells_how_to_use_it_and_the_run_stays_finished(runs: Path) -> None:
    sync(finished_run(runs / "r"), follow=False)
    registered = register_it(runs / "r", network())

    client = connect(tracking_uri(runs))
    version = client.get_model_version_by_alias("tiny", "candidate")
    assert (int(version.version), version.run_id) == (registered.version, registered.run_id)
    assert version.tags["input_name"] == "input_0"
    assert version.tags["input_shape"] == "N,3,16,16"
    assert '"val_resize": 18' in version.tags["preprocessing"]
    assert (version.tags["top1"], version.tags["top5"], version.tags["verified"]) == ("0.5", "1.0", "true")
    run = client.get_run(registered.run_id)
    assert run.info.status == "FINISHED"
    (output,) = run.outputs.model_outputs
    logged = client.get_logged_model(output.model_id)
    assert (logged.artifact_location, logged.source_run_id) == (version.source, registered.run_id)
    assert json.loads(logged.tags["mlflow.modelVersions"]) == [
        {"name": "tiny", "version": registered.version}
    ]


@pytest.mark.filterwarnings("ignore")  # they are MLflow's own
def test_a_plain_mlflow_client_loads_it(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    register_it(finished_run(runs / "r"), network())
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri(runs))

    uri = "models:/tiny@candidate"
    assert mlflow.pytorch.load_model(uri)(torch.zeros(1, 3, 16, 16)).shape == (1, 3)
    assert mlflow.pyfunc.load_model(uri).predict(np.zeros((5, 3, 16, 16), np.float32)).shape == (5, 3)


def test_mlflow_tells_nobody_outside_that_it_is_used() -> None:
    """It does unless told otherwise before it is imported; it also keeps quiet where it sees a CI."""
    program = "import trainer.tracking, mlflow.telemetry.client as it; print(it.get_telemetry_client())"
    told = subprocess.check_output(
        [sys.executable, "-c", program], env={"PATH": os.environ["PATH"]}, text=True
    )

    assert told.strip() == "None"


@pytest.mark.parametrize(
    "measured", [(0.5 - 2 / VAL_IMAGES, 1.0), (0.5, 1.0 - 2 / VAL_IMAGES), (float("nan"), 1.0)]
)
def test_a_model_that_measures_otherwise_is_not_registered(runs: Path, measured: tuple[float, float]) -> None:
    with pytest.raises(TrackingError, match="it is not registered"):
        register_it(finished_run(runs / "r"), network(), measured=measured)

    with pytest.raises(TrackingError, match="has no model/ to register"):
        register(runs / "r")
    assert connect(tracking_uri(runs)).search_registered_models() == []


def test_the_registered_bytes_have_the_digest_of_the_local_file(runs: Path) -> None:
    register_it(finished_run(runs / "r"), network())

    (stored,) = (runs / "artifacts").rglob("model.pt2")
    local = runs / "r" / "model" / "data" / "model.pt2"
    digest = hashlib.sha256(local.read_bytes()).hexdigest()
    assert hashlib.sha256(stored.read_bytes()).hexdigest() == digest
    version = connect(tracking_uri(runs)).get_model_version_by_alias("tiny", "candidate")
    assert version.tags["model_sha256"] == digest


def test_a_model_that_comes_back_otherwise_gets_no_alias(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    upload = MlflowClient.log_model_artifacts

    def damaging(client: MlflowClient, model_id: str, path: str) -> None:
        upload(client, model_id, path)
        (stored,) = (runs / "artifacts").rglob("model.pt2")
        stored.write_bytes(stored.read_bytes()[:-1] + b"?")

    monkeypatch.setattr(MlflowClient, "log_model_artifacts", damaging)
    with pytest.raises(TrackingError, match="it gets no alias"):
        register_it(finished_run(runs / "r"), network())

    assert connect(tracking_uri(runs)).get_registered_model("tiny").aliases == {}


def test_one_image_may_be_judged_otherwise(runs: Path) -> None:
    register_it(finished_run(runs / "r"), network(), measured=(0.5 - 1 / VAL_IMAGES, 1.0))

    assert load("models:/tiny@candidate", runs=runs).source.version == 1


def test_registering_twice_does_nothing_and_takes_the_alias_from_nobody(runs: Path) -> None:
    first = register_it(finished_run(runs / "one"), network(1))
    second = register_it(finished_run(runs / "two"), network(2))

    assert register_it(runs / "one", network(1)) == first
    assert load("models:/tiny@candidate", runs=runs).source == second
    assert len(connect(tracking_uri(runs)).search_model_versions("name='tiny'")) == 2


def test_weights_that_were_trained_further_are_a_new_version(runs: Path) -> None:
    first = register_it(finished_run(runs / "r"), network(1))

    second = register_it(runs / "r", network(2))

    assert (first.version, second.version) == (1, 2)
    assert load("models:/tiny@candidate", runs=runs).source == second


def test_a_registration_that_was_cut_off_is_completed(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    requests = (
        "log_model_artifacts",
        "finalize_logged_model",
        "create_model_version",
        "set_registered_model_alias",
    )
    for request in requests:
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, request, power_cut)
            with pytest.raises(KeyboardInterrupt):
                register_it(finished_run(runs / "r"), network())

    registered = register_it(runs / "r", network())

    client = connect(tracking_uri(runs))
    assert load("models:/tiny@candidate", runs=runs).source == registered
    assert len(client.search_model_versions("name='tiny'")) == 1
    models = client.search_logged_models([client.get_experiment_by_name("photos").experiment_id])
    assert {model.status.name for model in models} == {"READY"}


def power_cut(*_: object, **__: object) -> None:
    raise KeyboardInterrupt


def test_photos_of_the_same_name_are_all_kept(runs: Path) -> None:
    register_it(
        finished_run(runs / "r"),
        network(),
        samples=[Sample("a.JPEG", b"one", 0), Sample("a.JPEG", b"two", 1)],
    )

    samples = load("models:/tiny/1", runs=runs).samples
    assert [(sample.jpeg, sample.label) for sample in samples] == [(b"one", 0), (b"two", 1)]
    assert len({sample.name for sample in samples}) == 2


def test_a_run_names_its_newest_version(runs: Path) -> None:
    registered = register_it(finished_run(runs / "r"), network())

    assert load(f"runs:/{registered.run_id}", runs=runs).source == registered
    assert load(f"runs:/{registered.run_id}/model", runs=runs).source == registered


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
        load(uri, runs=runs)


def test_an_empty_registry_and_a_missing_one_are_named(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="nothing is registered there yet, train first"):
        load("models:/tiny@candidate", runs=runs)
    with pytest.raises(TrackingError, match=r"there is no .*/nowhere/mlflow\.db"):
        load("models:/tiny@candidate", runs=tmp_path / "nowhere")

    assert not (tmp_path / "nowhere").exists()


def test_a_damaged_model_is_refused(runs: Path) -> None:
    register_it(finished_run(runs / "r"), network())
    (stored,) = (runs / "artifacts").rglob("model.pt2")
    data = bytearray(stored.read_bytes())
    data[len(data) // 2] ^= 1
    stored.write_bytes(data)

    with pytest.raises(TrackingError, match="is damaged"):
        load("models:/tiny@candidate", runs=runs)


def test_a_sample_that_would_be_written_elsewhere_is_refused(runs: Path) -> None:
    register_it(finished_run(runs / "r"), network())
    (facts,) = (runs / "artifacts").rglob("facts.json")
    facts.write_text(facts.read_text().replace('"a.JPEG"', '"../a.JPEG"'))

    with pytest.raises(TrackingError, match="missing or unreadable"):
        load("models:/tiny@candidate", runs=runs)


def test_a_model_of_somebody_else_is_refused(runs: Path) -> None:
    register_it(finished_run(runs / "r"), network())
    (facts,) = (runs / "artifacts").rglob("facts.json")
    facts.unlink()

    with pytest.raises(TrackingError, match="was not registered by `trainer train`"):
        load("models:/tiny/1", runs=runs)


def test_the_process_keeps_its_own_tracking_address(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    register_it(finished_run(runs / "r"), network())
    load("models:/tiny@candidate", runs=runs)

    assert "MLFLOW_TRACKING_URI" not in os.environ
    assert os.listdir(tmp_path) == [runs.name]  # neither an mlflow.db nor an mlruns of MLflow's default


def test_a_model_goes_through_a_server_and_back(server: Server, tmp_path: Path) -> None:
    model, images = network(), torch.randn(3, 3, 16, 16)

    registered = register_it(finished_run(tmp_path / "r"), model)

    loaded = load("models:/tiny@candidate", runs=tmp_path)
    assert loaded.source == registered
    torch.testing.assert_close(loaded.module(images), model(images), rtol=0, atol=0)
    with pytest.raises(TrackingError, match=rf"there is no registered model tyni at {server.uri}"):
        load("models:/tyni/1")
