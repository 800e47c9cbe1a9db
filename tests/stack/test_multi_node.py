"""docs/multi-node.md: its own command, taken from the page, in two containers that train one run."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tests.cli.conftest import until
from tests.stack.conftest import MARKS, ROOT, Stack
from trainer import metrics
from trainer.config import load_recipe

pytestmark = MARKS

# An experiment and a model of its own: other tests look at those of the digits.
NODES = "resnet18-nodes"
SMALL = (
    f"--device cpu --name nodes --set registered_model_name={NODES} --set model=resnet18 --set epochs=1 "
    "--set schedule.warmup_epochs=0 --no-report --no-export"
)


def documented() -> str:
    """The command with the image, as the page has it."""
    page = (ROOT / "docs" / "multi-node.md").read_text()
    (command,) = re.findall(r"^    (docker run (?:.*\\\n)+.*)\n", page, re.MULTILINE)
    return str(command).replace("\\\n", " ")


def put(command: str, places: dict[str, str]) -> str:
    """The command with what stands for this machine and its run; each must be there."""
    for text, value in places.items():
        assert text in command, text
        command = command.replace(text, value)
    return command


@pytest.mark.timeout(300)
def test_the_documented_command_trains_one_run_on_two_machines(stack: Stack, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    first, second = f"{stack.project}-node-0", f"{stack.project}-node-1"
    here = {
        "--gpus all ": "",  # there is none, and no memory to pin for it
        "--ulimit memlock=-1 ": "",
        "--nproc-per-node=gpu": "--nproc-per-node=1",
        "/data/imagenet:": f"{stack.project}_digits:",
        "/shared/runs:": f"{tmp_path}:",
        # A network of their own instead of the machine's: there both would have one name and one process number, by
        # which torchrun tells machines apart.
        "--network host": f"--network {stack.project}_tracking",
        "127.0.0.1:5000": "mlflow:5000",
        "trainer:0.1.0": "trainer:tested",
        "FIRST:29400": f"{first}:29400",
        "RUN ": "two ",
        "rn50-75": "digits",
    }
    words = shlex.split(f"{put(documented(), here)} {SMALL}")

    def start(name: str) -> subprocess.Popen[str]:
        named = [*words[:2], "--name", name, "--hostname", name, *words[2:]]
        return subprocess.Popen(named, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    both = [start(first)]
    try:
        until(lambda: subprocess.run(["docker", "inspect", first], capture_output=True).returncode == 0)
        both.append(start(second))
        said = [process.communicate(timeout=200)[0] for process in both]
    finally:
        subprocess.run(["docker", "rm", "--force", first, second], capture_output=True)

    assert [process.returncode for process in both] == [0, 0], "\n".join(said)
    client = MlflowClient(stack.uri)
    names = NODES, load_recipe("digits").experiment
    experiments = [client.get_experiment_by_name(name) for name in names]
    (run,), (trained,) = (client.search_runs([experiment.experiment_id]) for experiment in experiments)
    assert (run.info.status, run.data.tags["world_size"]) == ("FINISHED", "2")
    assert len(client.get_metric_history(run.info.run_id, metrics.VAL_TOP1)) == 1
    for tag in ("image", "git_commit"):
        assert run.data.tags[tag] == trained.data.tags[tag], "the entrypoint was not passed by"
