"""A run that outlives its machine, on the command line: stopped here, gone with its disk, and finished elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.cli.conftest import SETTINGS, SMALL, command, until
from tests.dataset.conftest import Bucket, bucket, s3_endpoint  # noqa: F401
from trainer.checkpoint import list_checkpoints
from trainer.mirror import read_state
from trainer.tracking import read_journal, read_run_ref

pytestmark = pytest.mark.slow

OPTIONS = ["--no-report", "--no-export", "--checkpoint-interval", "0.5", "--mirror-every", "2"]
LONG = ["--set", "epochs=100000"]  # comes to no end by itself


def test_a_stopped_run_goes_on_elsewhere_in_the_same_mlflow_run(
    photos: Path,
    tmp_path: Path,
    empty_store: Path,
    bucket: Bucket,  # noqa: F811
) -> None:
    store = tmp_path / "mlflow.db"
    shutil.copy(empty_store, store)
    environment = {"MLFLOW_TRACKING_URI": f"sqlite:///{store}", "RUNS_REMOTE": f"s3://{bucket.name}/runs"}

    def train(machine: str, *more: object) -> object:
        (tmp_path / machine).mkdir(exist_ok=True)
        arguments = ["train", "digits", *SETTINGS, *SMALL, *LONG, *OPTIONS, "--data", photos, *more]
        return command(*arguments, folder=tmp_path / machine, **environment)

    def run_of(machine: str) -> Path:
        (run,) = (tmp_path / machine / "runs").glob("digits-*")
        return run

    first = train("one", "--nproc-per-node", 2)
    until(lambda: list((tmp_path / "one").glob("runs/*/checkpoints/step-*.pt")), first)
    second = train("two")
    _, err = second.communicate(timeout=300)
    assert second.returncode == 2, err
    assert err.count("\n") <= 2, "a sentence, and that it waits"
    assert "trainer: the run is being trained on" in err
    assert not list((tmp_path / "two" / "runs").glob("digits-*"))

    first.send_signal(signal.SIGTERM)
    _, err = first.communicate(timeout=300)
    assert first.returncode == 75, err
    stopped = read_journal(run_of("one"))
    newest = list_checkpoints(run_of("one") / "checkpoints")[0].name
    assert read_state(run_of("one"))
    assert not read_state(run_of("one")).behind
    ref = read_run_ref(run_of("one"))
    shutil.rmtree(tmp_path / "one")

    last = train("two", "--json", "--until-top1", 0.01)
    out, err = last.communicate(timeout=300)
    assert last.returncode == 0, err
    assert f"is restored from {environment['RUNS_REMOTE']}" in err
    assert f"going on from the checkpoint at step {int(newest[5:13])} of" in err
    journal = read_journal(run_of("two"))
    assert journal.key == stopped.key
    assert len(journal.starts) == 2
    assert json.loads(out)["run_id"] == ref.run_id
    client = MlflowClient(environment["MLFLOW_TRACKING_URI"])
    (run,) = client.search_runs([ref.experiment_id])
    assert (run.info.status, run.data.tags["mirror"]) == ("FINISHED", environment["RUNS_REMOTE"])

    # At home, to be looked at: the whole of it, and nothing says the secret.
    name = run_of("two").name
    shutil.rmtree(run_of("two"))
    home = command("mirror", f"runs/{name}", "--restore", folder=tmp_path / "two", **environment)
    out, err = home.communicate(timeout=300)
    assert home.returncode == 0, err
    assert (run_of("two") / "model" / "weights.safetensors").exists()
    sent = command("mirror", f"runs/{name}", folder=tmp_path / "two", **environment)
    out, err = sent.communicate(timeout=300)
    assert out == f"all of runs/{name} is in {environment['RUNS_REMOTE']}\n", err
    secret = os.environ["AWS_SECRET_ACCESS_KEY"].encode()
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(secret in path.read_bytes() for path in kept)
    for one in bucket.client.list_objects_v2(Bucket=bucket.name)["Contents"]:
        assert secret not in bucket.client.get_object(Bucket=bucket.name, Key=one["Key"])["Body"].read()
