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

from tests.tracking.conftest import Server
from tests.tracking.models import INFO, SAMPLES, VAL_IMAGES, finished_run, network, rebuild, register_it
from tests.tracking.synced import in_mlflow, noted, rows, start
from trainer.errors import TrackingError
from trainer.metrics import TRAIN_LOSS, VAL_LOSS, VAL_TOP1
from trainer.tracking import Sample, load_model, promote, register, rollback, save_model, sync, tracking_uri
from trainer.tracking._registry import _accuracy_tags
from trainer.tracking._saved_model import SavedModel
from trainer.tracking._server import connect


def test_the_version_tells_how_to_use_it_and_the_run_stays_finished(runs: Path) -> None:
    sync(finished_run(runs / "r"), follow=False)
    registered = register_it(runs / "r", network())

    client = connect(tracking_uri(runs))
    version = client.get_model_version_by_alias("tiny", "candidate")
    assert (int(version.version), version.run_id) == (registered.version, registered.run_id)
    digests = {"files_sha256", "weights_sha256", "val_digest"}
    assert {key: value for key, value in version.tags.items() if key not in digests} == {
        "recipe": "photos",
        "dataset": "photos",
        "git_commit": "unknown",
        "top1": "0.5",
        "verified": "true",
    }
    run = client.get_run(registered.run_id)
    assert run.info.status == "FINISHED"
    (output,) = run.outputs.model_outputs
    logged = client.get_logged_model(output.model_id)
    assert (logged.artifact_location, logged.source_run_id) == (version.source, registered.run_id)
    assert json.loads(logged.tags["mlflow.modelVersions"]) == [
        {"name": "tiny", "version": registered.version}
    ]


@pytest.mark.parametrize(
    ("top1", "tag"),
    [(0.9833333333333333, "0.98333"), (0.98889 - 1e-9, "0.98888"), (0.29, "0.29"), (1, "1.0")],
)
def test_the_accuracy_of_a_version_reads_and_is_never_more_than_it_is(top1: float, tag: str) -> None:
    saved = SavedModel("tiny", "w" * 64, "f" * 64, top1, 1.0, 50_000)

    assert _accuracy_tags(saved) == {"top1": tag}
    assert float(tag) <= top1


@pytest.mark.parametrize("first", ["sync", "register"])
def test_a_model_has_the_last_evaluation_and_the_run_no_point_more(runs: Path, first: str) -> None:
    journal = start(runs / "r")
    for step in (1, 2):
        journal.log(step, {VAL_TOP1: step / 4, VAL_LOSS: 1 / step, TRAIN_LOSS: 1})
    journal.finish("finished")
    if first == "sync":
        sync(runs / "r", follow=False)
    register_it(runs / "r", network())
    sync(runs / "r", follow=False)

    client = connect(tracking_uri(runs))
    (logged,) = client.search_logged_models([in_mlflow(runs / "r").info.experiment_id])
    measured = {(one.key, one.value, one.step, one.dataset_name) for one in logged.metrics}
    assert measured == {(VAL_TOP1, 0.5, 2, "photos"), (VAL_LOSS, 0.5, 2, "photos")}
    assert rows(runs / "r") == noted(runs / "r")


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


def test_every_file_has_its_digest_in_one_listing_whose_digest_the_version_and_the_run_know(
    runs: Path,
) -> None:
    register_it(finished_run(runs / "r"), network())

    (listing,) = (runs / "artifacts").rglob("SHA256SUMS")
    checked = subprocess.run(
        ["sha256sum", "--strict", "--check", listing], cwd=listing.parent, capture_output=True
    )
    files = [path for path in listing.parent.rglob("*") if path.is_file()]
    assert (checked.returncode, len(checked.stdout.splitlines())) == (0, len(files) - 1), checked.stderr
    digest = hashlib.sha256(listing.read_bytes()).hexdigest()
    version = connect(tracking_uri(runs)).get_model_version_by_alias("tiny", "candidate")
    assert version.tags["files_sha256"] == digest
    assert json.loads((runs / "r" / "registered.json").read_text()) == {
        "name": "tiny",
        "version": 1,
        "run_id": version.run_id,
        "files_sha256": digest,
    }


@pytest.mark.parametrize("name", ["info.json", "samples/1.jpeg", "MLmodel"])
def test_a_model_that_comes_back_otherwise_gets_no_alias(
    runs: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    from mlflow import MlflowClient

    upload = MlflowClient.log_model_artifacts

    def damaging(client: MlflowClient, model_id: str, path: str) -> None:
        upload(client, model_id, path)
        (listing,) = (runs / "artifacts").rglob("SHA256SUMS")
        stored = listing.parent / name
        stored.write_bytes(stored.read_bytes()[:-1] + b"?")

    monkeypatch.setattr(MlflowClient, "log_model_artifacts", damaging)
    with pytest.raises(TrackingError, match="it gets no alias"):
        register_it(finished_run(runs / "r"), network())

    assert connect(tracking_uri(runs)).get_registered_model("tiny").aliases == {}


def test_a_saved_model_that_was_changed_is_not_registered(runs: Path) -> None:
    save = {"rebuild": rebuild, "name": "tiny", "num_images": VAL_IMAGES}
    save_model(finished_run(runs / "r"), network(), INFO, SAMPLES, lambda _: (0.5, 1.0), **save)
    info = runs / "r" / "model" / "info.json"
    info.write_text(info.read_text().replace('"cat"', '"dog"', 1))

    with pytest.raises(TrackingError, match=r"is not what training wrote there \(info\.json is not what"):
        register(runs / "r")
    save_model(runs / "r", network(), INFO, SAMPLES, lambda _: (0.5, 1.0), **save)
    assert register(runs / "r").version == 1


# Of every kind of character that a file's name can have.
PRINTABLE = [
    *(chr(code) for code in range(0x20, 0x7F) if chr(code) != "/"),
    "é",
    "\u4e2d",
    "\u00a0",
    "\u202e",
    "😀",
]


def test_photos_of_any_name_go_through_a_server_and_back(server: Server, tmp_path: Path) -> None:
    """A # in the name of an artifact is the end of a URL: it is written, and never read again."""
    names = ["img #1.jpg", "50%25.JPG", "a?b=c.png", "..", "x" * 243 + ".jpeg", "".join(PRINTABLE)]
    samples = [Sample(name, name.encode(), index % 3) for index, name in enumerate(names)]

    register_it(finished_run(tmp_path / "r"), network(), samples=samples, name="photos")

    assert list(load_model("models:/photos@candidate", runs=tmp_path).samples) == samples
    version = connect(server.uri).get_model_version_by_alias("photos", "candidate")
    assert version.tags["verified"] == "true"


def test_the_champion_moves_and_comes_back_on_a_server(server: Server, tmp_path: Path) -> None:
    """Which has numbers of versions as texts, where an SQLite store has numbers."""
    worse = register_it(finished_run(tmp_path / "worse"), network(1), top1=0.6, name="moves")
    better = register_it(finished_run(tmp_path / "better"), network(2), top1=0.7, name="moves")

    assert promote(worse.uri, runs=tmp_path).previous is None
    assert promote(better.uri, runs=tmp_path).previous == worse.version
    with pytest.raises(TrackingError, match="is not better"):
        promote(worse.uri, runs=tmp_path)
    rollback("moves", runs=tmp_path)

    aliases = connect(server.uri).get_registered_model("moves").aliases
    assert (int(aliases["champion"]), int(aliases["previous"])) == (worse.version, better.version)


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


def test_the_alias_stays_with_a_better_version_until_it_is_moved_by_hand(
    runs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "trainer")
    best = register_it(finished_run(runs / "best"), network(1), top1=0.9)
    assert "tiny version 1 is registered, top-1 90.00%; it is candidate now" in caplog.text

    worse = register_it(finished_run(runs / "worse"), network(2))
    assert load_model("models:/tiny@candidate", runs=runs).registered == best
    assert (
        "candidate stays version 1, 90.00% of the same images: `trainer sync RUN --candidate`" in caplog.text
    )

    assert register(runs / "worse", candidate=True) == worse
    assert load_model("models:/tiny@candidate", runs=runs).registered == worse
    assert "tiny version 2 is registered, top-1 50.00%; candidate was version 1, 90.00%" in caplog.text

    assert register(runs / "best") == best, "a repeat takes it from nobody"
    equal = register_it(finished_run(runs / "equal"), network(3))
    assert load_model("models:/tiny@candidate", runs=runs).registered == equal


@pytest.mark.parametrize(
    ("tag", "value"), [("val_digest", "other"), ("top1", None), ("top1", "nan"), ("top1", "best of all")]
)
def test_a_version_that_cannot_be_compared_loses_the_alias_to_a_newer_one(
    runs: Path, tag: str, value: str | None
) -> None:
    """Of other validation images, or by a stranger: its accuracy says nothing about this one."""
    register_it(finished_run(runs / "one"), network(1), top1=0.9)
    client = connect(tracking_uri(runs))
    if value is None:
        client.delete_model_version_tag("tiny", "1", tag)
    else:
        client.set_model_version_tag("tiny", "1", tag, value)

    second = register_it(finished_run(runs / "two"), network(2))

    assert load_model("models:/tiny@candidate", runs=runs).registered == second
