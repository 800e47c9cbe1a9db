"""deploy/skypilot.yaml: read by SkyPilot itself, and its commands run here with the variables that SkyPilot sets."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.cli.conftest import ROOT, SETTINGS, SMALL
from tests.conftest import free_port

TASK: dict[str, Any] = yaml.safe_load((ROOT / "deploy/skypilot.yaml").read_text())
READ = """
import json, sys, sky
task = sky.Task.from_yaml(sys.argv[1])
(machine,) = task.resources
print(json.dumps({
    "run": task.run, "setup": task.setup, "nodes": task.num_nodes, "envs": dict(task.envs),
    "secrets": list(task.secrets), "spot": machine.use_spot, "recovery": machine.job_recovery,
    "gpus": machine.accelerators, "disk": machine.disk_size, "cloud": str(machine.cloud),
}))
"""


def run_part(folder: Path, part: str = "run", **variables: str) -> subprocess.Popen[str]:
    """A part of the task as one of SkyPilot's machines runs it in `folder`."""
    usual = {"SKYPILOT_NUM_NODES": "1", "SKYPILOT_NODE_RANK": "0", "SKYPILOT_NODE_IPS": "127.0.0.1"}
    usual |= {"SKYPILOT_NUM_GPUS_PER_NODE": "0", "SKYPILOT_TASK_ID": "sky-1_trainer_1-0", "HF_TOKEN": ""}
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **usual, **TASK["envs"]}
    folder.mkdir(exist_ok=True)
    return subprocess.Popen(
        ["bash", "-c", variables.pop("script", TASK[part])],
        cwd=folder,
        env=environment | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def says(path: Path, code: int = 0, last: str = "") -> str:
    """A program that prints its arguments, one a line, and what it has of the environment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        '#!/bin/bash\nprintf "%s\\n" "$@" "uri=${MLFLOW_TRACKING_URI-none} token=${HF_TOKEN-none}"\n'
        f"echo '{last}'\nexit {code}\n"
    )
    path.chmod(0o755)
    return str(path)


def test_one_machine_runs_trainer_itself_and_hands_on_its_exit_code(tmp_path: Path) -> None:
    trainer = says(tmp_path / "trainer", 75)
    node = run_part(tmp_path, TRAINER=trainer, RECIPE="rn50-75", TRAIN="--name 'two words'")
    said = node.communicate()[0].splitlines()

    assert node.returncode == 75
    words = ["train", "rn50-75", "--data", "data/prepared", "--runs", "runs", "--name", "two words"]
    assert said == [*words, "uri=none token=", ""]


@pytest.mark.parametrize(
    ("code", "last", "expected"),
    [
        (0, "", 0),
        (1, "  exitcode  : 75 (pid: 12)", 75),
        (1, "  exitcode  : 2 (pid: 12)", 1),
        (143, "  exitcode  : 75 (pid: 12)", 143),
    ],
)
def test_several_machines_meet_at_the_first_and_a_stop_is_told_from_a_failure(
    tmp_path: Path, code: int, last: str, expected: int
) -> None:
    nodes = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_IPS": "10.0.0.7\n10.0.0.8", "SKYPILOT_NODE_RANK": "1"}
    torchrun = says(tmp_path / "torchrun", code, last)
    node = run_part(tmp_path, TORCHRUN=torchrun, SKYPILOT_NUM_GPUS_PER_NODE="4", **nodes)
    said = node.communicate()[0].splitlines()

    assert node.returncode == expected
    assert {"--nnodes=2", "--nproc-per-node=4", "--rdzv-endpoint=10.0.0.7:29400"} < set(said)


def test_the_data_set_is_prepared_as_it_was_asked_for(tmp_path: Path) -> None:
    (tmp_path / "scripts").mkdir()
    says(tmp_path / "scripts/install")
    says(tmp_path / ".venv/bin/trainer")

    said = run_part(tmp_path, "setup", PREPARE="imagenet s3://b/train.tar 's3://b/v al.tar'").communicate()[0]

    words = ["prepare", "imagenet", "s3://b/train.tar", "s3://b/v al.tar", "--out", "data/prepared"]
    assert said.splitlines()[-len(words) - 2 : -2] == words
    assert "token=none" in said
    says(tmp_path / "scripts/install", 3)
    failed = run_part(tmp_path, "setup")
    failed.communicate()
    assert failed.returncode == 3


@pytest.mark.slow
def test_skypilot_reads_the_task(tmp_path: Path) -> None:
    places = [
        shutil.which("uv"),
        *(folder / ".uv/bin/uv" for folder in (ROOT, Path(sys.prefix).resolve().parent)),
    ]
    uv = next((place for place in places if place and Path(place).exists()), None)
    if not uv:
        assert not os.environ.get("CI"), "there is no uv"
        pytest.skip("wants uv, which ./scripts/install brings where there is none")
    cache = os.environ.get("UV_CACHE_DIR") or Path.home() / ".cache/uv"
    command = [uv, "run", "--quiet", "--isolated", "--no-project", "--with", "skypilot==0.14.1"]
    environment = {**os.environ, "HOME": str(tmp_path), "UV_CACHE_DIR": str(cache)}
    task = json.loads(
        subprocess.check_output(
            [*command, "--python", sys.executable, "python", "-c", READ, ROOT / "deploy/skypilot.yaml"],
            env=environment | {"SKYPILOT_DISABLE_USAGE_COLLECTION": "1"},
        )
    )

    assert {"run": task["run"], "setup": task["setup"]} == {part: TASK[part] for part in ("run", "setup")}
    assert task["envs"] == TASK["envs"]
    assert task["secrets"] == ["HF_TOKEN"]
    assert task["recovery"] == {"recover_on_exit_codes": [75], "strategy": None}
    assert (task["cloud"], task["gpus"], task["nodes"]) == ("AWS", {"A10G": 1}, 1)
    assert task["spot"]
    assert task["disk"] >= 160 + 150  # the images as published, and what is installed


@pytest.mark.slow
def test_two_machines_train_one_run_without_a_disk_that_they_share(photos: Path, tmp_path: Path) -> None:
    settings = [
        *SETTINGS,
        *SMALL,
        "--set",
        "epochs=1",
        "--set",
        "schedule.warmup_epochs=0",
        "--device",
        "cpu",
        "--no-report",
        "--no-export",
    ]
    variables = {"SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.1"}
    variables |= {"TORCHRUN": f"{sys.executable} -m torch.distributed.run", "TRAIN": shlex.join(settings)}
    nodes = []
    for rank in "01":
        folder = tmp_path / rank
        (folder / "data").mkdir(parents=True)
        (folder / "data/prepared").symlink_to(photos)
        nodes.append((folder, rank))
    script = TASK["run"].replace("29400", str(free_port()))
    both = [run_part(folder, script=script, SKYPILOT_NODE_RANK=rank, **variables) for folder, rank in nodes]
    said = [process.communicate(timeout=300)[0] for process in both]

    assert [process.returncode for process in both] == [0, 0], "\n".join(said)
    (result,) = tmp_path.glob("*/runs/digits-*/result.json")
    assert json.loads(result.read_text())["again"] is False
