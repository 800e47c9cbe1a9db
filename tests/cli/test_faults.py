"""What goes wrong on rented machines, on the command line: nothing is lost, and it is said what to do."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.cli.conftest import ROOT, SETTINGS, SMALL, command, until
from tests.conftest import free_port
from tests.tracking.conftest import Server
from tests.training.test_spot import NOTICE, Metadata
from trainer import metrics
from trainer.checkpoint import list_checkpoints
from trainer.tracking import read_journal

pytestmark = pytest.mark.slow

# Five steps an epoch, and none comes to its end.
LONG = ["--set", "epochs=100000", "--set", "global_batch=4", "--checkpoint-interval", "1"]


def training(photos: Path, folder: Path, *more: object, **environment: str) -> subprocess.Popen[str]:
    return command(
        "train",
        "digits",
        *SETTINGS,
        *SMALL,
        *LONG,
        "--no-report",
        "--no-export",
        "--data",
        photos,
        *more,
        folder=folder,
        **environment,
    )


@pytest.fixture
def folder(tmp_path: Path, empty_store: Path) -> Path:
    """Where runs are made, with an MLflow store that is there already: making one takes seconds."""
    (tmp_path / "runs").mkdir()
    shutil.copy(empty_store, tmp_path / "runs" / "mlflow.db")
    return tmp_path


def run_of(folder: Path) -> Path:
    (run,) = (folder / "runs").glob("digits-*")
    return run


def begun(folder: Path) -> bool:
    """Whether some steps are done and saved."""
    return any(int(path.name[5:13]) >= 3 for path in folder.glob("runs/*/checkpoints/step-*.pt"))


def process_of(rank: int, *launchers: subprocess.Popen[str]) -> int:
    """Number of the process that is `rank` under one of these launchers."""
    for launcher in launchers:
        for process in psutil.Process(launcher.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if process.environ().get("RANK") == str(rank):
                    return process.pid
    raise AssertionError(f"there is no rank {rank}")


def says(process: subprocess.Popen[str], words: str) -> str:
    """What the process said up to the line with these words."""
    assert process.stderr is not None
    said = ""
    for line in process.stderr:
        said += line
        if words in line:
            return said
    raise AssertionError(said)


def steps(run: Path, key: str) -> list[int]:
    return [point.step for point in read_journal(run).points if point.key == key]


def test_stuck_and_killed_processes_are_told_and_replaced_and_the_run_goes_on_by_itself(
    photos: Path, folder: Path
) -> None:
    process = training(photos, folder, "--nproc-per-node", 2, "--timeout", 4)
    until(lambda: begun(folder), process)

    os.kill(process_of(1, process), signal.SIGSTOP)
    says(process, "trainer: process 1 of 0 to 1 is stuck")
    says(process, "all are started again from the last checkpoint")
    says(process, "going on from the checkpoint at step")
    says(process, "epoch")

    os.kill(process_of(1, process), signal.SIGKILL)
    says(process, "all are started again from the last checkpoint")
    says(process, "going on from the checkpoint at step")
    says(process, "epoch")

    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 75, err
    done = steps(run_of(folder), metrics.TRAIN_LOSS)
    assert done == list(range(1, done[-1] + 1))
    evaluated = steps(run_of(folder), metrics.VAL_TOP1)
    assert evaluated == list(range(5, evaluated[-1] + 1, 5))


EPOCHS = 60  # of a run that must not be done before a process is killed


class Machine:
    """torchrun with one process, as on one of two machines."""

    def __init__(self, photos: Path, runs: Path, port: int, *, restarts: int = 3) -> None:
        arguments = [
            "--nnodes=2",
            "--nproc-per-node=1",
            "--rdzv-id=r",
            "--rdzv-backend=c10d",
            f"--rdzv-endpoint=127.0.0.1:{port}",
            f"--max-restarts={restarts}",
            "--shutdown-timeout=90",
            "-m",
            "trainer",
            "train",
            "digits",
            *SETTINGS,
            *SMALL,
            "--no-report",
            "--no-export",
            "--data",
            photos,
            "--runs",
            runs,
            "--device",
            "cpu",
            "--timeout",
            20,
            "--set",
            f"epochs={EPOCHS}",
            "--set",
            "global_batch=4",
            "--batch-per-gpu",
            2,
            "--checkpoint-interval",
            1,
        ]
        self.process = command(
            *arguments,
            folder=runs.parent,
            module="torch.distributed.run",
            TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1",
        )

    def end(self) -> tuple[int, str]:
        """Exit code, and what it said."""
        said, err = self.process.communicate(timeout=300)
        return self.process.returncode, said + err


def test_two_machines_train_one_run_and_go_on_when_a_process_is_killed(photos: Path, folder: Path) -> None:
    runs, port = folder / "runs", free_port()
    machines = [Machine(photos, runs, port) for _ in range(2)]
    until(lambda: begun(folder), machines[0].process)
    os.kill(process_of(1, *(machine.process for machine in machines)), signal.SIGKILL)
    ended = [machine.end() for machine in machines]

    assert [code for code, _ in ended] == [0, 0], ended
    assert "going on from the checkpoint at step" in "".join(said for _, said in ended)
    assert steps(run_of(folder), metrics.TRAIN_LOSS) == list(range(1, 5 * EPOCHS + 1))
    assert steps(run_of(folder), metrics.VAL_TOP1) == list(range(5, 5 * EPOCHS + 1, 5))

    again = [Machine(photos, runs, port) for _ in range(2)]
    ended = [machine.end() for machine in again]
    assert [code for code, _ in ended] == [0, 0], ended
    assert "this run is finished already" in "".join(said for _, said in ended)

    # Without shared storage the first machine may be another one, which knows nothing.
    (run_of(folder) / "result.json").unlink()
    (folder / "other" / "runs").mkdir(parents=True)
    apart = [Machine(photos, path, port, restarts=0) for path in (folder / "other" / "runs", runs)]
    ended = [machine.end() for machine in apart]
    assert [code for code, _ in ended] == [1, 1], ended
    assert "put --runs on storage that all machines share" in ended[0][1]


def test_a_spot_notice_saves_and_stops_and_a_start_under_it_does_nothing(photos: Path, folder: Path) -> None:
    with Metadata() as metadata:
        here = {"AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.address}
        process = training(photos, folder, **here)
        until(lambda: begun(folder), process)
        second = training(photos, folder, **here)
        _, err = second.communicate(timeout=300)
        assert second.returncode == 2
        assert "is being trained by another process" in err
        assert "Traceback" not in err

        metadata.entries["spot/instance-action"] = NOTICE
        _, err = process.communicate(timeout=300)

        assert process.returncode == 75, err
        assert "because EC2 will terminate this spot instance at 2026-11-21T17:18:00Z" in err
        assert read_journal(run_of(folder)).status == "interrupted"
        newest = list_checkpoints(run_of(folder) / "checkpoints")[0]

        again = training(photos, folder, **here)
        says(again, "nothing is started")
        time.sleep(1)
        assert again.poll() is None  # or Docker would start it again, and again
        again.send_signal(signal.SIGTERM)
        _, err = again.communicate(timeout=300)
        assert again.returncode == 75
        assert "nothing was started" in err
        assert list_checkpoints(run_of(folder) / "checkpoints")[0] == newest


def test_all_processes_stop_at_the_same_step_when_slurm_asks_the_launcher(photos: Path, folder: Path) -> None:
    process = training(photos, folder, "--nproc-per-node", 2)
    until(lambda: begun(folder), process)
    process.send_signal(signal.SIGUSR1)
    _, err = process.communicate(timeout=300)

    assert process.returncode == 75, err
    assert read_journal(run_of(folder)).status == "interrupted"
    newest = int(list_checkpoints(run_of(folder) / "checkpoints")[0].name[5:13])
    assert max(steps(run_of(folder), metrics.TRAIN_LOSS)) == newest


def test_without_its_server_a_run_starts_only_if_told_and_is_brought_there_later(
    photos: Path,
    tmp_path: Path,
    a_server: Server,
) -> None:
    from mlflow import MlflowClient

    arguments = ["train", "digits", *SETTINGS, *SMALL, "--no-report", "--no-export"]
    arguments += ["--data", str(photos), "--device", "cpu"]
    nowhere = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9"}  # nobody listens on "discard"
    refused = command(*arguments, folder=tmp_path, **nowhere)
    _, err = refused.communicate(timeout=300)
    assert refused.returncode == 2
    assert "--offline starts without it" in err
    assert not list((tmp_path / "runs").iterdir())

    impatient = (
        "import sys, trainer.run._worker as worker, trainer.cli as cli; worker.SYNC_SECONDS = 1; "
        "sys.exit(cli.main(sys.argv[1:]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", impatient, *arguments, "--offline"],
        cwd=tmp_path,
        env={**os.environ, **nowhere, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    run = run_of(tmp_path)
    assert done.returncode == 2, done.stderr
    assert f"training is done and all of it is in {run.relative_to(tmp_path)}" in done.stderr
    assert read_journal(run).status == "finished"

    until(lambda: "the trainer is gone" in (run / "sync.log").read_text())  # its sync gives up
    sync = command("sync", run, folder=tmp_path, MLFLOW_TRACKING_URI=a_server.uri)
    said, err = sync.communicate(timeout=300)
    assert sync.returncode == 0, err
    assert "models:/cats-and-dogs/1" in said
    client = MlflowClient(a_server.uri)
    version = client.get_model_version_by_alias("cats-and-dogs", "candidate")
    assert version.run_id
    there = client.get_run(version.run_id)
    assert there.info.status == "FINISHED"
    for key in (metrics.TRAIN_LOSS, metrics.VAL_TOP1):
        assert [p.step for p in client.get_metric_history(version.run_id, key)] == steps(run, key)
    kept = {Path(one.path).name for one in client.list_artifacts(version.run_id, "checkpoints")}
    local = run / "checkpoints"
    assert kept == {list_checkpoints(local)[0].name, (local / "best.pt").resolve().name}
