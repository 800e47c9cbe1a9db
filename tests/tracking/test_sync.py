"""Whatever happens on the way, MLflow ends with every measured value exactly once."""

from __future__ import annotations

import fcntl
import math
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from trainer.errors import TrackingError
from trainer.tracking import (
    BackgroundSync,
    DatasetInfo,
    Journal,
    check_reachable,
    read_journal,
    read_run_ref,
    sync,
    tracking_uri,
)
from trainer.tracking import _server as tracking_server
from trainer.tracking import _shipping as shipping
from trainer.tracking._server import connect

if TYPE_CHECKING:
    from mlflow.entities import Run

    from tests.tracking.conftest import Server

DATASET = DatasetInfo("photos", "d" * 64, "/data", {"train": 20, "val": 9})


def start(folder: Path, **tags: str) -> Journal:
    journal = Journal(folder)
    journal.start(
        name="first", experiment="photos", params={"epochs": 3, "a.b": [1, 2]}, tags=tags, dataset=DATASET
    )
    return journal


def in_mlflow(folder: Path) -> Run:
    """The one run that MLflow has of this journal."""
    client = connect(tracking_uri(folder.parent))
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    key = read_journal(folder).key
    (run,) = client.search_runs(experiments, f"tags.`{shipping.RUN_KEY}` = '{key}'")
    return run


def rows(folder: Path) -> Counter[tuple[str, int, float, int]]:
    """How often MLflow has each (key, step, value, ms)."""
    run = in_mlflow(folder)
    client = connect(tracking_uri(folder.parent))
    keys = [key for key in run.data.metrics if not key.startswith(shipping.SYSTEM)]
    return Counter(
        (key, m.step, m.value, m.timestamp)
        for key in keys
        for m in client.get_metric_history(run.info.run_id, key)
    )


def noted(folder: Path) -> Counter[tuple[str, int, float, int]]:
    points = read_journal(folder).points
    return Counter((p.key, p.step, p.value, p.time) for p in points if math.isfinite(p.value))


@contextmanager
def follower(folder: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """`trainer sync --follow`, started by hand: it has no trainer as its parent."""
    command = [sys.executable, "-m", "trainer", "sync", str(folder), "--follow"]
    with (folder / "sync.log").open("ab") as log:
        child = subprocess.Popen(command, env={**os.environ, **env}, stdout=log, stderr=log)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def wait_for_step(folder: Path, step: int) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if read_run_ref(folder) and any(row[1] == step for row in rows(folder)):
            return
        time.sleep(0.3)
    raise AssertionError(f"step {step} did not come: {(folder / 'sync.log').read_text()}")


def test_all_that_the_journal_tells_is_in_mlflow(runs: Path) -> None:
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
    assert run.info.artifact_uri.startswith((runs / "artifacts").as_uri())
    (papers,) = (runs / "artifacts").rglob("journal.jsonl")
    assert papers.read_bytes() == (runs / "r" / "journal.jsonl").read_bytes()


def test_shipping_again_changes_nothing(runs: Path) -> None:
    journal = start(runs / "r")
    journal.log(1, {"loss": 1})
    sync(runs / "r", follow=False)
    before = (in_mlflow(runs / "r").to_dictionary(), rows(runs / "r"))

    sync(runs / "r", follow=False)

    assert (in_mlflow(runs / "r").to_dictionary(), rows(runs / "r")) == before


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")  # the child is killed anyway
def test_a_shipper_killed_at_any_moment_leaves_neither_gap_nor_duplicate(runs: Path) -> None:
    journal = start(runs / "r", gpu="T4")
    luck = random.Random(0)
    connect(tracking_uri(runs))  # imports MLflow, so that the forks need not

    for life in range(12):
        for step in range(life * 400, (life + 1) * 400):
            journal.log(step, {f"metric{k}": step + k for k in range(5)})
        child = os.fork()
        if child == 0:
            sync(runs / "r", follow=False)
            os._exit(0)
        time.sleep(luck.uniform(0.0, 0.6))
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)

    sync(runs / "r", follow=False)
    assert rows(runs / "r") == noted(runs / "r")


def test_a_run_made_just_before_a_kill_is_found_again(runs: Path) -> None:
    start(runs / "r").log(1, {"loss": 1})
    sync(runs / "r", follow=False)
    first = in_mlflow(runs / "r").info.run_id
    (runs / "r" / shipping.RUN_FILE).unlink()

    sync(runs / "r", follow=False)

    assert in_mlflow(runs / "r").info.run_id == first
    assert read_run_ref(runs / "r") == (tracking_uri(runs), in_mlflow(runs / "r").info.experiment_id, first)


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
def test_mlflow_shows_how_the_run_ended(runs: Path, ending: str, status: str) -> None:
    journal = start(runs / "r")
    journal.finish(ending)  # type: ignore[arg-type]

    sync(runs / "r", follow=False)

    assert in_mlflow(runs / "r").info.status == status


def test_one_run_has_one_shipper_at_a_time(runs: Path) -> None:
    start(runs / "r")
    with (runs / "r" / "sync.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)

        with pytest.raises(TrackingError, match="shipped to MLflow by another process already"):
            sync(runs / "r", follow=False)


def test_a_follower_whose_trainer_is_gone_ships_the_rest_and_ends(runs: Path) -> None:
    journal = start(runs / "r")
    journal.log(1, {"loss": 1})

    with follower(runs / "r", TRAINER_PARENT="1") as child:
        assert child.wait(60) == 0

    assert rows(runs / "r") == noted(runs / "r")
    assert in_mlflow(runs / "r").info.status == "KILLED"


def test_a_run_is_shipped_while_it_trains_and_complete_soon_after_its_end(runs: Path) -> None:
    journal = start(runs / "r")
    with BackgroundSync(runs / "r") as shipper:
        journal.log(1, {"loss": 1})
        wait_for_step(runs / "r", 1)
        assert in_mlflow(runs / "r").info.status == "RUNNING"

        journal.truncate_after(0)
        journal.log(1, {"loss": 1})
        journal.log(2, {"loss": 2})
        journal.finish("finished")
        assert shipper.wait(30)

    run = in_mlflow(runs / "r")
    assert sorted((key, step) for key, step, *_ in rows(runs / "r").elements()) == [("loss", 1), ("loss", 2)]
    assert run.info.status == "FINISHED"
    assert "system/cpu_utilization_percentage" in run.data.metrics


def test_a_killed_trainer_leaves_no_shipper_behind(runs: Path) -> None:
    start(runs / "r").log(1, {"loss": 1})
    code = (
        "import sys, time; from pathlib import Path; from trainer.tracking import BackgroundSync\n"
        "with BackgroundSync(Path(sys.argv[1])) as shipper: print(shipper._child.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(runs / "r")], stdout=subprocess.PIPE) as trainer:
        assert trainer.stdout is not None
        child = int(trainer.stdout.readline())
        wait_for_step(runs / "r", 1)
        trainer.kill()

    end = time.monotonic() + 30
    while Path(f"/proc/{child}").exists() and Path(f"/proc/{child}/stat").read_text().split()[2] != "Z":
        assert time.monotonic() < end
        time.sleep(0.2)
    assert in_mlflow(runs / "r").info.status == "KILLED"


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
    # … and its shipper is killed meanwhile, and another begins while there is no server.
    with follower(folder) as child:
        train(100)
        time.sleep(1)
        server.start()
        train(100)
        wait_for_step(folder, step)
        journal.finish("finished")
        assert child.wait(60) == 0

    assert rows(folder) == noted(folder)
    assert in_mlflow(folder).info.status == "FINISHED"
    assert slowest < 0.1


def test_a_journal_can_be_shipped_to_another_server_as_well(
    server: Server, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(runs / "r").log(1, {"loss": 1})
    for uri in (tracking_uri(runs), f"sqlite:///{runs / 'mlflow.db'}", server.uri):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        sync(runs / "r", follow=False)

        assert rows(runs / "r") == noted(runs / "r")


def test_a_server_that_refuses_this_host_name_is_named_with_the_cure(server: Server) -> None:
    check_reachable()

    with pytest.raises(
        TrackingError, match=rf"403.*add localhost:{server.port} to MLFLOW_SERVER_ALLOWED_HOSTS"
    ):
        check_reachable(server.uri.replace("127.0.0.1", "localhost"))


def test_a_server_that_is_not_there_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_server, "TIMEOUT", 1)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]

        with pytest.raises(
            TrackingError, match=rf"MLflow at http://127\.0\.0\.1:{port} .*connection refused"
        ):
            check_reachable(f"http://me:secret@127.0.0.1:{port}")


def test_a_server_that_never_answers_is_named_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_server, "TIMEOUT", 1.5)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        begun = time.monotonic()

        with pytest.raises(TrackingError, match="no answer in time"):
            check_reachable(f"http://127.0.0.1:{deaf.getsockname()[1]}")
    assert time.monotonic() - begun < 5


def test_processes_that_come_to_an_empty_store_at_once_all_get_through(tmp_path: Path) -> None:
    """A run of a second is over before its shipper has made the tables."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    code = f"from trainer.tracking._server import connect; connect({uri!r}).search_experiments()"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    said = [process.communicate(timeout=120)[1] for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0], said


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")

    with pytest.raises(TrackingError, match=r"runs/mlflow\.db cannot be written"):
        check_reachable(tracking_uri(tmp_path / "runs"))


def test_a_password_in_the_address_is_not_shown() -> None:
    assert tracking_server.place("http://me:secret@host:5000") == "http://host:5000"


def test_tracking_costs_nothing_to_import() -> None:
    code = "import sys, trainer.tracking; print(any(name in sys.modules for name in ('mlflow', 'torch')))"

    assert subprocess.check_output([sys.executable, "-c", code]) == b"False\n"


def test_no_thread_is_left(runs: Path) -> None:
    before = threading.active_count()
    start(runs / "r").finish("finished")

    sync(runs / "r", follow=False)

    assert threading.active_count() == before
