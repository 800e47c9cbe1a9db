"""What is registered comes back byte for byte, once, with what one has to know about it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tracking.models import finished_run, network, register_it
from trainer.errors import TrackingError
from trainer.tracking import load_model, sync, tracking_uri
from trainer.tracking._server import connect


def test_the_version_tells_how_to_use_it_and_the_run_stays_finished(runs: Path) -> None:
    sync(finished_run(runs / "r"), follow=False)
    registered = register_it(runs / "r", network())

    client = connect(tracking_uri(runs))
    version = client.get_model_version_by_alias("tiny", "candidate")
    assert (int(version.version), version.run_id) == (registered.version, registered.run_id)
    assert version.tags["input_name"] == "input_0"
    assert version.tags["input_shape"] == "N,3,16,16"
    assert '"val_resize": 18' in version.tags["preprocess"]
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


def test_registering_twice_does_nothing_and_takes_the_alias_from_nobody(runs: Path) -> None:
    first = register_it(finished_run(runs / "one"), network(1))
    second = register_it(finished_run(runs / "two"), network(2))

    assert register_it(runs / "one", network(1)) == first
    assert load_model("models:/tiny@candidate", runs=runs).registered == second
    assert len(connect(tracking_uri(runs)).search_model_versions("name='tiny'")) == 2


def test_weights_that_were_trained_further_are_a_new_version(runs: Path) -> None:
    first = register_it(finished_run(runs / "r"), network(1))

    second = register_it(runs / "r", network(2))

    assert (first.version, second.version) == (1, 2)
    assert load_model("models:/tiny@candidate", runs=runs).registered == second


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
    assert load_model("models:/tiny@candidate", runs=runs).registered == registered
    assert len(client.search_model_versions("name='tiny'")) == 1
    models = client.search_logged_models([client.get_experiment_by_name("photos").experiment_id])
    assert {model.status.name for model in models} == {"READY"}


def power_cut(*_: object, **__: object) -> None:
    raise KeyboardInterrupt
