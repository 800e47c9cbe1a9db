"""How a process of ours begins: nothing of the user's folder is taken for ours, and no library calls home."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.cli.conftest import SETTINGS, SMALL
from trainer.processes import MAIN, SWITCHES, child_command, safe_path
from trainer.tracking import read_journal, read_run_ref
from trainer.tracking._server import connect

ROOT = Path(__file__).parents[1]

# Names of the program itself, of what it imports, and of the standard library.
SHADOWS = (
    "trainer", "mlflow", "torch", "numpy", "random", "types", "json", "onnx", "onnxruntime", "safetensors", "rich",
    "yaml", "sitecustomize_", "filelock", "PIL", "pydantic", "psutil", "requests", "torchvision", "nvidia",
)  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A project with modules of its own, each of which notes that it ran."""
    project = tmp_path / "project"
    project.mkdir()
    for name in SHADOWS:
        (project / f"{name}.py").write_text(
            f"open({str(tmp_path / 'canaries')!r}, 'a').write({name + chr(10)!r}); raise SystemExit(0)"
        )
    return project


def run(*command: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    env.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=300)


CYCLE = """
import atexit, gc
from trainer.processes import spare_libraries

class Pipeline:
    def __init__(self):
        self.itself = self
    def __del__(self):
        print("freed")

young = gc.get_threshold()[:2]
spare_libraries()
atexit.register(gc.collect)  # as DALI does when it is imported
Pipeline()
print(gc.get_threshold()[:2] == young, gc.get_threshold()[2] >= 1000)
"""


def test_libraries_are_looked_through_seldom_and_free_at_the_end_what_they_must() -> None:
    """The collector leaves modules alone; pipelines still end with their threads before the process does."""
    assert run(sys.executable, "-c", CYCLE, folder=ROOT).stdout.split() == ["True", "True", "freed"]


@pytest.mark.slow
def test_modules_in_the_users_folder_are_not_ours(folder: Path, photos: Path) -> None:
    """Neither the sync, nor torchrun's processes, nor those of an evaluation take them; each does its work."""
    processes = "2"
    with_own = [*SETTINGS, *SMALL, "--data", str(photos), "--device", "cpu", "--json"]
    done = run(*child_command("train", "digits", *with_own, "--nproc-per-node", processes), folder=folder)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    measured = run(
        *child_command("evaluate", result["model"], "--data", str(photos), "--device", "cpu", "--json"),
        "--nproc-per-node", processes, folder=folder,
    )  # fmt: skip

    assert json.loads(measured.stdout)["top1"] == result["top1"], measured.stderr
    assert not (folder.parent / "canaries").exists(), (folder.parent / "canaries").read_text()
    history, ref = read_journal(folder / result["run"]), read_run_ref(folder / result["run"])
    client = connect(ref.tracking_uri)
    sent = {
        key: len(client.get_metric_history(ref.run_id, key)) for key in {one.key for one in history.points}
    }
    assert sum(sent.values()) == len(history.points) > 0
    assert client.get_run(ref.run_id).info.status == "FINISHED"
    assert (folder / result["run"] / "result.json").exists()


@pytest.mark.parametrize("how", [["-P", str(MAIN)], [str(MAIN)], ["-P", "-m", "trainer"]])
def test_each_way_to_start_it_takes_nothing_from_the_users_folder(folder: Path, how: list[str]) -> None:
    done = run(sys.executable, *how, "recipes", folder=folder)

    assert done.returncode == 0, done.stderr
    assert "rn50-baseline" in done.stdout
    assert not (folder.parent / "canaries").exists()


def test_this_package_is_meant_even_where_another_trainer_comes_first(folder: Path) -> None:
    (folder / "empty").mkdir()
    (folder / "trainer.py").rename(folder / "empty" / "trainer.py")
    done = run(sys.executable, "-P", str(MAIN), "--version", folder=folder, PYTHONPATH=str(folder / "empty"))
    assert done.stdout.startswith("trainer ")
    assert not (folder.parent / "canaries").exists()


def test_an_empty_part_of_the_path_is_not_the_current_folder_for_a_child(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PYTHONPATH", ":/a::/b:")

    assert safe_path() == {"PYTHONSAFEPATH": "1", "PYTHONPATH": "/a:/b"}


@pytest.mark.slow
def test_a_network_of_ones_own_is_found_and_its_neighbours_replace_nothing(
    folder: Path, photos: Path
) -> None:
    (folder / "nets.py").write_text("from tests.nets import Small as Mine")
    settings = ["--set", "classes=2", "--set", "global_batch=8", "--set", "model=nets:Mine"]
    done = run(
        *child_command("train", "digits", *settings, "--data", str(photos), "--device", "cpu", "--dry-run"),
        folder=folder,
    )

    assert done.returncode == 0, done.stderr
    assert "all is well" in done.stdout
    assert not (folder.parent / "canaries").exists()


def test_switches_are_set_by_the_import_and_yield_to_the_user() -> None:
    code = f"import os, trainer; print([os.environ[name] for name in {[*SWITCHES]}])"
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    said = subprocess.check_output([sys.executable, "-c", code], env=env, text=True)
    other = subprocess.check_output(
        [sys.executable, "-c", code], env=env | dict.fromkeys(SWITCHES, "mine"), text=True
    )

    assert eval(said) == [*SWITCHES.values()]
    assert eval(other) == ["mine"] * len(SWITCHES)


@pytest.mark.parametrize("name", SWITCHES)
def test_a_switch_that_is_set_elsewhere_too_is_set_alike(name: str) -> None:
    """For programs that do not import this package: MLflow's server, the demo, a notebook."""
    listed = subprocess.check_output(
        ["git", "ls-files", "--", "*.yaml", "docker", "notebooks", "scripts", "trainer"], cwd=ROOT, text=True
    )
    for file in listed.splitlines():
        text = (ROOT / file).read_text(errors="replace") if (ROOT / file).is_file() else ""
        for value in re.findall(rf"""{name}\\?["']?\s*[:=]\s*\\?["']?([\w.]*)""", text):
            assert value == SWITCHES[name], file


@pytest.mark.parametrize("service", ["mlflow", "migrate"])
def test_services_that_run_mlflow_alone_call_nobody(service: str) -> None:
    settings = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"][service]

    assert settings["environment"]["MLFLOW_DISABLE_TELEMETRY"] == SWITCHES["MLFLOW_DISABLE_TELEMETRY"]
