"""A run folder is one run of MLflow, whatever got lost on the way, and it has an address."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import SETTINGS, SMALL
from tests.tracking.conftest import Server
from tests.tracking.models import finished_run, network, register_it
from tests.tracking.synced import in_mlflow, start
from trainer.cli import main
from trainer.tracking import RunRef, local_url, read_run_ref, run_url, runs_url, sync, tracking_uri
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
    where = "/#/experiments/7/runs/0123/model-metrics?workflowType=machine_learning"

    shown = run_url(RunRef(server, "7", "0123"))

    assert shown in (f"http://127.0.0.1:5000{where}", f"https://host/a{where}")


def test_a_run_in_a_local_file_has_none() -> None:
    ref = RunRef("sqlite:////runs/mlflow.db", "1", "0123")
    there = "http://127.0.0.1:5000/#/experiments/1/runs/0123/model-metrics?workflowType=machine_learning"

    assert run_url(ref) is None
    assert local_url(ref) == there, "by `mlflow ui`"


def test_a_password_in_the_address_is_in_no_file_of_the_run(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri.replace("//", "//user:s3cretpw@"))
    caplog.set_level("DEBUG", logger="trainer")

    register_it(finished_run(tmp_path / "r"), network())
    sync(tmp_path / "r", follow=True)

    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert tmp_path / "r" / RUN_FILE in files
    assert [path for path in files if b"s3cretpw" in path.read_bytes()] == []
    assert "s3cretpw" not in caplog.text
    first = read_run_ref(tmp_path / "r")
    sync(tmp_path / "r", follow=False)
    assert read_run_ref(tmp_path / "r") == first
    assert first.tracking_uri == server.uri


@pytest.mark.slow
def test_a_password_in_the_address_is_neither_in_the_result_nor_printed(
    server: Server,
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", server.uri.replace("//", "//TOKEN-s3cret@"))
    arguments = [
        *SETTINGS,
        *SMALL,
        "--data",
        str(photos),
        "--device",
        "cpu",
        "--runs",
        str(tmp_path / "runs"),
    ]

    assert main(["train", "digits", *arguments, "--json"]) == 0
    assert main(["train", "digits", *arguments]) == 0

    (result,) = (tmp_path / "runs").glob("*/result.json")
    assert server.uri in result.read_text()
    assert [path for path in tmp_path.rglob("*") if path.is_file() and b"s3cret" in path.read_bytes()] == []
    said = capfd.readouterr()
    assert "finished already" in said.out
    assert "s3cret" not in said.out + said.err


@pytest.mark.parametrize("public", ["http://127.0.0.1:5000/", "http://127.0.0.1:5000/#/experiments"])
def test_a_browser_may_know_the_server_by_another_address(
    monkeypatch: pytest.MonkeyPatch, public: str
) -> None:
    monkeypatch.setenv("MLFLOW_PUBLIC_URL", public)
    ref = RunRef("http://mlflow:5000", "7", "0123")

    assert (
        run_url(ref)
        == "http://127.0.0.1:5000/#/experiments/7/runs/0123/model-metrics?workflowType=machine_learning"
    )
    assert runs_url(ref) == (
        "http://127.0.0.1:5000/#/experiments/7/runs?viewStateShareKey=trainer&workflowType=machine_learning"
    )
    assert runs_url(RunRef("sqlite:////runs/mlflow.db", "1", "0123")) is None


@pytest.mark.parametrize("nonsense", ["", "here", "#"])
def test_an_address_that_is_none_is_not_shown(monkeypatch: pytest.MonkeyPatch, nonsense: str) -> None:
    monkeypatch.setenv("MLFLOW_PUBLIC_URL", nonsense)

    assert run_url(RunRef("http://mlflow:5000", "7", "0123")).startswith("http://mlflow:5000/#/")
