"""A run folder is one run of MLflow, whatever got lost on the way, and it has an address."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tracking.synced import in_mlflow, start
from trainer.tracking import RunRef, read_run_ref, run_url, sync, tracking_uri
from trainer.tracking._mlflow_run import RUN_FILE


def test_a_run_made_just_before_a_kill_is_found_again(runs: Path) -> None:
    start(runs / "r").log(1, {"loss": 1})
    sync(runs / "r", follow=False)
    first = in_mlflow(runs / "r").info.run_id
    (runs / "r" / RUN_FILE).unlink()

    sync(runs / "r", follow=False)

    assert in_mlflow(runs / "r").info.run_id == first
    assert read_run_ref(runs / "r") == (tracking_uri(runs), in_mlflow(runs / "r").info.experiment_id, first)


@pytest.mark.parametrize(
    "server", ["http://127.0.0.1:5000", "http://127.0.0.1:5000/", "https://me:secret@host/a"]
)
def test_a_run_on_a_server_has_an_address_for_the_browser(server: str) -> None:
    where = "/#/experiments/7/runs/0123?workflowType=machine_learning"

    shown = run_url(RunRef(server, "7", "0123"))

    assert shown in (f"http://127.0.0.1:5000{where}", f"https://host/a{where}")


def test_a_run_in_a_local_file_has_none() -> None:
    assert run_url(RunRef("sqlite:////runs/mlflow.db", "1", "0123")) is None
