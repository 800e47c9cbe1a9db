"""deploy/slurm.sbatch on Debian's Slurm: two nodes' daemons on this machine, in namespaces of their own."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.cli.conftest import ROOT, SETTINGS, SMALL, until
from trainer.checkpoint import list_checkpoints

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

NAMESPACES = ["--mount", "--uts", "--net", "--pid"]
RECIPE = [
    "digits",
    *SETTINGS,
    *SMALL,
    "--set",
    "global_batch=4",
    "--set",
    "epochs=16",
    "--device",
    "cpu",
    "--no-report",
    "--no-export",
]


class Cluster:
    """Runs Slurm's commands where its daemons are."""

    def __init__(self, state: Path) -> None:
        self.state = state

    def __call__(self, *arguments: object, **environment: str) -> str:
        """Run a command of Slurm, from the folder of the repository; returns what it printed."""
        enter = ["nsenter", "--target", (self.state / "pid").read_text().strip(), *NAMESPACES, f"--wd={ROOT}"]
        env = {
            **os.environ,
            "SLURM_CONF": str(self.state / "slurm.conf"),
            "OMP_NUM_THREADS": "1",
            **environment,
        }
        env.pop("MLFLOW_TRACKING_URI", None)
        return subprocess.run(
            [*enter, *map(str, arguments)], check=True, text=True, stdout=subprocess.PIPE, env=env
        ).stdout

    def submit(self, log: Path, *arguments: str | Path, **environment: str) -> str:
        """Submit deploy/slurm.sbatch on both nodes; returns the job's number."""
        options = ["--parsable", "--nodes", "2", "--output", log]
        return self("sbatch", *options, "deploy/slurm.sbatch", *arguments, **environment).strip()

    def state_of(self, job: str) -> str:
        return self("squeue", "--noheader", "--states", "all", "--jobs", job, "--format", "%T").strip()

    def start_now(self, job: str) -> None:
        """Spare a requeued job its wait of two minutes.

        Not all of it: a node refuses what is started within the second in which the job's credential was revoked.
        """
        until(
            lambda: self("squeue", "--noheader", "--jobs", job, "--format", "%r").strip() == "BeginTime",
            every=0.2,
        )
        self("scontrol", "update", f"JobId={job}", "StartTime=now+3")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    if os.geteuid() or not all(map(shutil.which, ("slurmctld", "slurmd", "munged"))):
        assert not os.environ.get("CI"), "Debian's slurm-wlm and munge are missing, or this is not root"
        pytest.skip("wants root, and Debian's slurm-wlm and munge")
    state = tmp_path_factory.mktemp("slurm")
    daemons = subprocess.Popen(
        [
            "unshare",
            *NAMESPACES,
            "--fork",
            "--mount-proc",
            "--kill-child",
            ROOT / "tests/deploy/slurm_cluster",
            state,
        ],
        stdin=subprocess.PIPE,
    )
    until((state / "pid").exists, daemons)
    # The number that the cluster sees of itself is 1: what is needed is this machine's.
    children = Path(f"/proc/{daemons.pid}/task/{daemons.pid}/children").read_text().split()
    (state / "pid").write_text(children[0])
    cluster = Cluster(state)
    until(lambda: cluster("sinfo", "--noheader", "--format", "%t %D").strip() == "idle 2", daemons)
    yield cluster
    daemons.communicate()  # its input ends


def at_epoch(log: Path, epoch: int) -> bool:
    return log.exists() and f" epoch {epoch}/" in log.read_text()


def weights(runs: Path) -> dict[str, torch.Tensor]:
    (run,) = runs.glob("digits-*")
    checkpoint = torch.load(list_checkpoints(run / "checkpoints")[0], weights_only=True)
    model: dict[str, torch.Tensor] = checkpoint["states"]["model"]
    return model


def test_a_run_that_is_out_of_time_and_then_preempted_ends_as_an_unbroken_one(
    cluster: Cluster, photos: Path, tmp_path: Path
) -> None:
    log, runs = tmp_path / "job.log", tmp_path / "runs"
    job = cluster.submit(log, *RECIPE, "--data", photos, "--runs", runs)

    # As `--signal=B:TERM@120` does two minutes before the end: the shell of the job hears of it, nobody else.
    until(lambda: at_epoch(log, 2), seconds=300)
    cluster("scancel", "--batch", "--signal=TERM", job)
    until(lambda: "the job goes back into the queue" in log.read_text())
    assert "everything saved" in log.read_text()
    cluster.start_now(job)

    # As where a job of higher priority takes the nodes.
    until(lambda: log.read_text().count("going on from the checkpoint") == 1, seconds=300)
    said = len(log.read_text())
    until(lambda: " epoch " in log.read_text()[said:], seconds=300)
    cluster("scontrol", "requeue", job)
    until(lambda: "everything saved" in log.read_text()[said:])
    cluster.start_now(job)
    until(lambda: cluster.state_of(job) == "COMPLETED", seconds=300, every=0.5)
    assert log.read_text().count("going on from the checkpoint") == 2

    command = [sys.executable, "-m", "trainer", "train", *RECIPE, "--nproc-per-node", "2"]
    unbroken = tmp_path / "unbroken"
    subprocess.run(
        [*command, "--data", str(photos), "--runs", str(unbroken)],
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    ours, theirs = weights(runs), weights(unbroken)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_two_jobs_on_the_same_nodes_meet_at_ports_of_their_own(cluster: Cluster, tmp_path: Path) -> None:
    says = tmp_path / "says"
    says.write_text('#!/bin/sh\necho "$@"\n')
    says.chmod(0o755)
    logs = [tmp_path / "one.log", tmp_path / "other.log"]
    jobs = [cluster.submit(log, "digits", TORCHRUN=str(says)) for log in logs]
    until(lambda: all(cluster.state_of(job) == "COMPLETED" for job in jobs), every=0.2)
    said = [re.findall(r"--rdzv-endpoint=n1:(\d+)", log.read_text()) for log in logs]

    assert [len(set(ports)) for ports in said] == [1, 1], "all nodes of a job name the same"
    assert said[0] != said[1]
    assert all(20000 <= int(port) < 32768 for ports in said for port in ports), "below what clients are given"


def test_what_is_cancelled_stays_so(cluster: Cluster, tmp_path: Path) -> None:
    log, waits = tmp_path / "job.log", tmp_path / "waits"
    waits.write_text("#!/bin/sh\necho waiting\nexec sleep 60\n")
    waits.chmod(0o755)
    job = cluster.submit(log, "digits", TORCHRUN=str(waits))
    until(lambda: log.exists() and log.read_text().count("waiting") == 2)

    cluster("scancel", job)

    until(lambda: cluster.state_of(job) == "CANCELLED", every=0.2)
    assert "back into the queue" not in log.read_text()
