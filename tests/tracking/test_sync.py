"""Whatever happens on the way, MLflow ends with every measured value exactly once."""

from __future__ import annotations

import fcntl
import json
import math
import os
import random
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.tracking.conftest import Server
from tests.tracking.synced import follower, in_mlflow, noted, rows, start, wait_for_step
from trainer.errors import TrackingError
from trainer.tracking import BackgroundSync, Ending, read_journal, sync, tracking_uri
from trainer.tracking import _sync as syncing
from trainer.tracking._server import connect


def test_everything_in_the_journal_is_in_mlflow(runs: Path) -> None:
    journal = start(runs / "r", gpu="T4")
    for step in range(1200):
        journal.log(step, {"loss": 1 / (step + 1), "lr": 0.1 * step})
    journal.finish("finished")

    sync(runs / "r", follow=False)

    run, history = in_mlflow(runs / "r"), read_journal(runs / "r")
    assert rows(runs / "r") == noted(runs / "r")
    assert run.data.params == {"epochs": "3", "a.b": "[1, 2]"}
    assert run.data.tags["gpu"] == "T4"
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert (run.info.start_time, run.info.end_time) == (history.started, history.ended)
    (dataset,) = run.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("photos", "d" * 36)
    assert json.loads(dataset.dataset.profile) == {"train": 20, "val": 9}
    assert run.info.artifact_uri.startswith((runs / "artifacts").as_uri())
    (journals,) = (runs / "artifacts").rglob("journal.jsonl")
    assert journals.read_bytes() == (runs / "r" / "journal.jsonl").read_bytes()


def test_syncing_again_changes_nothing(runs: Path) -> None:
    journal = start(runs / "r")
    journal.log(1, {"loss": 1})
    sync(runs / "r", follow=False)
    before = (in_mlflow(runs / "r").to_dictionary(), rows(runs / "r"))

    sync(runs / "r", follow=False)

    assert (in_mlflow(runs / "r").to_dictionary(), rows(runs / "r")) == before


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # the child is killed anyway
def test_a_sync_killed_at_any_moment_leaves_neither_gap_nor_duplicate(runs: Path) -> None:
    journal = start(runs / "r", gpu="T4")
    rng = random.Random(0)
    connect(tracking_uri(runs))  # imports MLflow, so that the forks need not

    for life in range(12):
        for step in range(life * 400, (life + 1) * 400):
            journal.log(step, {f"metric{k}": step + k for k in range(5)})
        child = os.fork()
        if child == 0:
            sync(runs / "r", follow=False)
            os._exit(0)
        time.sleep(rng.uniform(0.0, 0.6))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

    sync(runs / "r", follow=False)
    assert rows(runs / "r") == noted(runs / "r")


def test_steps_that_are_trained_again_after_a_kill_appear_once(runs: Path) -> None:
    journal = start(runs / "r", processes="2")
    for step in (1, 2, 3, 4):
        journal.log(step, {"loss": step})
    sync(runs / "r", follow=False)
    assert in_mlflow(runs / "r").info.status == "KILLED"

    journal = start(runs / "r", processes="1")
    journal.truncate_after(2)
    for step in (3, 4, 5):
        journal.log(step, {"loss": step})
    journal.finish("finished")
    sync(runs / "r", follow=False)

    assert sorted((key, step, value) for key, step, value, _ in rows(runs / "r").elements()) == [
        ("loss", step, step) for step in (1, 2, 3, 4, 5)
    ]
    run = in_mlflow(runs / "r")
    assert (run.info.status, run.data.tags["processes"]) == ("FINISHED", "1")


def test_a_clock_that_jumps_back_and_forth_changes_nothing_but_the_times(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal, clock = start(runs / "r"), time.time_ns
    for step, hours in enumerate([0, -1, 5, -1, 0]):
        with monkeypatch.context() as jumped:
            jumped.setattr(time, "time_ns", lambda hours=hours: clock() + hours * 3_600_000_000_000)
            journal.log(step, {"loss": 1 / (step + 1)})
        sync(runs / "r", follow=False)

    assert rows(runs / "r") == noted(runs / "r")
    assert in_mlflow(runs / "r").data.metrics["loss"] == 1 / 5  # what MLflow shows as the newest


def test_inf_and_nan_stay_in_the_journal(runs: Path) -> None:
    start(runs / "r").log(1, {"loss": math.nan, "scale": math.inf, "lr": 0.5})

    sync(runs / "r", follow=False)

    assert {key for key, *_ in rows(runs / "r")} == {"lr"}


@pytest.mark.parametrize(
    ("ending", "status"), [("finished", "FINISHED"), ("interrupted", "KILLED"), ("failed", "FAILED")]
)
def test_mlflow_shows_how_the_run_ended(runs: Path, ending: Ending, status: str) -> None:
    journal = start(runs / "r")
    journal.finish(ending)

    sync(runs / "r", follow=False)

    assert in_mlflow(runs / "r").info.status == status


def test_one_run_has_one_sync_at_a_time(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(syncing, "LOCK_TIMEOUT", 0.2)
    start(runs / "r")
    with (runs / "r" / "sync.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        with pytest.raises(TrackingError, match="synced to MLflow by another process already"):
            sync(runs / "r", follow=False)


@pytest.mark.slow
def test_a_follower_whose_trainer_is_gone_sends_the_rest_and_ends(runs: Path) -> None:
    journal = start(runs / "r")
    journal.log(1, {"loss": 1})

    with follower(runs / "r", TRAINER_PARENT="1") as child:
        assert child.wait(120) == 0

    assert rows(runs / "r") == noted(runs / "r")
    assert in_mlflow(runs / "r").info.status == "KILLED"


def test_a_run_is_synced_while_it_trains_and_complete_soon_after_its_end(runs: Path) -> None:
    journal = start(runs / "r")
    with BackgroundSync(runs / "r") as background:
        journal.log(1, {"loss": 1})
        wait_for_step(runs / "r", 1)
        assert in_mlflow(runs / "r").info.status == "RUNNING"

        journal.truncate_after(0)
        journal.log(1, {"loss": 1})
        journal.log(2, {"loss": 2})
        journal.finish("finished")
        assert background.wait(120)

    run = in_mlflow(runs / "r")
    assert sorted((key, step) for key, step, *_ in rows(runs / "r").elements()) == [("loss", 1), ("loss", 2)]
    assert run.info.status == "FINISHED"
    assert "system/cpu_utilization_percentage" in run.data.metrics


@pytest.mark.slow
def test_a_server_killed_in_the_middle_costs_neither_a_value_nor_the_trainer_a_wait(
    server: Server, tmp_path: Path
) -> None:
    folder = tmp_path / "r"
    journal = start(folder)
    slowest, step = 0.0, 0

    def train(steps: int) -> None:
        nonlocal slowest, step
        for _ in range(steps):
            step += 1
            begun = time.perf_counter()
            journal.log(step, {"loss": 1 / step, "lr": step})
            slowest = max(slowest, time.perf_counter() - begun)

    with follower(folder) as child:
        train(100)
        wait_for_step(folder, 100)
        server.kill()
        train(1500)
        time.sleep(3)  # some failed tries
        assert child.poll() is None
    # … and its sync is killed meanwhile, and another begins while there is no server.
    with follower(folder) as child:
        train(100)
        time.sleep(1)
        server.start()
        train(100)
        wait_for_step(folder, step)
        journal.finish("finished")
        assert child.wait(120) == 0

    assert rows(folder) == noted(folder)
    assert in_mlflow(folder).info.status == "FINISHED"
    assert slowest < 2  # seconds: less than a pause between two tries


def test_a_journal_can_be_synced_to_another_server_as_well(
    server: Server, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(runs / "r").log(1, {"loss": 1})
    for uri in (tracking_uri(runs), f"sqlite:///{runs / 'mlflow.db'}", server.uri):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        sync(runs / "r", follow=False)

        assert rows(runs / "r") == noted(runs / "r")


def test_no_thread_is_left(runs: Path) -> None:
    before = threading.active_count()
    start(runs / "r").finish("finished")

    sync(runs / "r", follow=False)

    assert threading.active_count() == before


@pytest.mark.parametrize("ended", [False, True])
def test_a_store_that_takes_metrics_and_no_files_does_not_keep_an_orphaned_sync_alive(
    runs: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, ended: bool
) -> None:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    pauses: list[float] = []

    class Gone:
        def is_gone(self) -> bool:
            return True

        def sleep(self, seconds: float) -> None:
            pauses.append(seconds)
            assert len(pauses) < 10

    def full(*_: object, **__: object) -> None:
        raise MlflowException("no space at http://me:s3cret@host/api")

    journal = start(runs / "r")
    journal.log(1, {"loss": 1})
    if ended:
        journal.finish("finished")
    monkeypatch.setattr(syncing, "Parent", Gone)
    monkeypatch.setattr(MlflowClient, "log_artifact", full)
    caplog.set_level("INFO", logger="trainer")
    with pytest.raises(
        TrackingError, match="does not take everything: no space at http://host/api; `trainer sync"
    ):
        sync(runs / "r", follow=True)

    assert pauses == [2.0, 4.0]  # three tries
    assert "everything is sent" not in caplog.text
    assert "s3cret" not in caplog.text
    assert rows(runs / "r") == noted(runs / "r")


def test_a_child_that_ends_well_without_having_synced_is_not_believed(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.tracking._child.child_command", lambda *_: ["true"])
    journal = start(runs / "r")
    with BackgroundSync(runs / "r") as background:
        journal.log(1, {"loss": 1})
        journal.finish("finished")

        assert not background.wait(30)
    sync(runs / "r", follow=False)
    assert background.wait(30)


def test_a_run_folder_that_is_a_link_has_the_store_of_the_folder_it_is_named_in(
    runs: Path, tmp_path: Path
) -> None:
    start(tmp_path / "other disk" / "r").finish("finished")
    (runs / "r").symlink_to(tmp_path / "other disk" / "r")

    sync(runs / "r", follow=False)

    assert in_mlflow(runs / "r").info.status == "FINISHED"
    assert [path.name for path in (tmp_path / "other disk").iterdir()] == ["r"]
    assert (runs / "artifacts").exists()
