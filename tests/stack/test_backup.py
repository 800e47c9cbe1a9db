"""scripts/backup and scripts/restore: from the stack that trained, in use, into a second project."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.stack.conftest import ENVIRONMENT, MARKS, Stack
from trainer.config import load_recipe

pytestmark = MARKS

MODEL = "models:/resnet50-digits@candidate"


@pytest.fixture(scope="module")
def backup(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup that was made while a run logged metrics and artifacts as fast as it could."""

    client, done = MlflowClient(stack.uri), threading.Event()
    experiment = client.create_experiment("busy")
    run = client.create_run(experiment).info.run_id

    def work() -> None:
        step = 0
        while not done.is_set():
            client.log_text(run, str(step) * 10_000, f"texts/{step}.txt")
            client.log_metric(run, "step", step, step=step)  # says that the text of this step is there
            step += 1

    worker = threading.Thread(target=work)
    worker.start()
    folder = tmp_path_factory.mktemp("backups") / "one"
    runs = open_to_all(tmp_path_factory.mktemp("runs"))
    (runs / "digits-1" / "checkpoints").mkdir(parents=True)
    (runs / "digits-1" / "checkpoints" / "00000001.pt").write_bytes(b"weights")
    with_runs = replace(stack, folder=tmp_path_factory.mktemp("settings"))
    (with_runs.folder / ".env").write_text((stack.folder / ".env").read_text() + f"RUNS_DIR={runs}\n")
    try:
        said = with_runs.script("backup", "--runs", folder)
    finally:
        done.set()
        worker.join()
    client.set_terminated(run)

    assert said.returncode == 0, said.stdout
    return folder


@pytest.fixture(scope="module")
def restored(stack: Stack, backup: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A second project that holds what the backup holds."""
    runs = open_to_all(tmp_path_factory.mktemp("runs-again"))
    second = stack.sibling("restored", tmp_path_factory.mktemp("restored"), RUNS_DIR=runs)
    try:
        said = second.script("restore", backup)
        assert said.returncode == 0, said.stdout
        second.compose("up", "--detach", "--wait", "mlflow")
        yield second
    finally:
        second.down()


def open_to_all(folder: Path) -> Path:
    folder.chmod(0o777)  # the containers' user is another
    return folder


@pytest.fixture
def other(stack: Stack, tmp_path: Path) -> Iterator[Stack]:
    """A project that holds nothing."""
    other = stack.sibling("other", tmp_path)
    yield other
    other.down()


def damaged_copy(backup: Path, folder: Path) -> Path:
    """A copy whose files are the backup's own (hard links): replace them, do not write into them."""
    return Path(shutil.copytree(backup, folder, copy_function=os.link))


def first_artifact(folder: Path) -> Path:
    return min(path for path in (folder / "artifacts").rglob("*") if path.is_file())


def volumes(project: Stack) -> list[str]:
    label = f"label=com.docker.compose.project={project.project}"
    return subprocess.check_output(
        ["docker", "volume", "ls", "--quiet", "--filter", label], text=True
    ).split()


def test_a_backup_is_private_and_says_what_is_in_it(stack: Stack, backup: Path) -> None:
    facts = json.loads((backup / "backup.json").read_text())
    artifacts = [path for path in (backup / "artifacts").rglob("*") if path.is_file()]

    assert backup.stat().st_mode & 0o077 == 0
    assert facts["artifacts"] == {
        "files": len(artifacts),
        "bytes": sum(path.stat().st_size for path in artifacts),
    }
    assert [str(facts["rows"]["runs"])] == stack.sql("SELECT count(*) FROM runs")
    assert facts["rows"]["model_versions"] == 1
    assert facts["rows"]["alembic_version"] == 1
    assert {"made", "mlflow", "postgres", "alembic_revision"} < facts.keys()
    assert [path.name for path in backup.parent.iterdir()] == [backup.name]


def test_the_second_project_has_the_same_runs_metrics_and_versions(stack: Stack, restored: Stack) -> None:

    first, second = MlflowClient(stack.uri), MlflowClient(restored.uri)
    name = load_recipe("digits").registered_model_name
    (run,) = first.search_runs([first.get_experiment_by_name(name).experiment_id])
    again = second.get_run(run.info.run_id)

    assert again.to_dictionary() == run.to_dictionary()
    for key in run.data.metrics:
        history = [point.to_dictionary() for point in first.get_metric_history(run.info.run_id, key)]
        assert [point.to_dictionary() for point in second.get_metric_history(run.info.run_id, key)] == history
    assert dict(second.get_model_version_by_alias(name, "candidate")) == dict(
        first.get_model_version_by_alias(name, "candidate")
    )


@pytest.mark.filterwarnings("ignore")  # MLflow's and torch.export's own
def test_the_second_projects_model_loads_and_answers_as_the_first_ones(
    stack: Stack, restored: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    import torch

    images = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    answers = []
    for project in (stack, restored):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", project.uri)
        answers.append(mlflow.pytorch.load_model(MODEL)(images))

    torch.testing.assert_close(answers[0], answers[1], rtol=0, atol=0)


SUMS = "cd / && find artifacts -type f -exec sha256sum {} +"


def test_every_artifact_is_back_with_its_checksum_and_nothing_else_is(backup: Path, restored: Stack) -> None:
    listed = restored.compose("exec", "-T", "mlflow", "sh", "-c", SUMS).stdout
    sums = (backup / "SHA256SUMS").read_text().splitlines()

    assert sorted(listed.splitlines()) == sorted(line for line in sums if "  artifacts/" in line)


def test_what_a_run_logged_before_the_backup_is_whole_in_it(restored: Stack) -> None:

    client = MlflowClient(restored.uri)
    (run,) = client.search_runs([client.get_experiment_by_name("busy").experiment_id])
    steps = [point.step for point in client.get_metric_history(run.info.run_id, "step")]
    texts = {path.path: path.file_size for path in client.list_artifacts(run.info.run_id, "texts")}

    assert steps
    for step in steps:
        assert texts[f"texts/{step}.txt"] == len(str(step)) * 10_000


def test_checkpoints_are_back_if_they_were_asked_for(backup: Path, restored: Stack) -> None:
    found = restored.compose(
        "run", "--rm", "--no-deps", "-T", "--entrypoint", "sh", "trainer", "-c", "cd /runs && grep -r . ."
    ).stdout

    assert "./digits-1/checkpoints/00000001.pt:weights" in found.splitlines()
    assert json.loads((backup / "backup.json").read_text())["runs"] == {"files": 1, "bytes": 7}


def flip_a_byte(folder: Path) -> None:
    file = first_artifact(folder)
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.unlink()
    file.write_bytes(content)


def cut_the_dump(folder: Path) -> None:
    content = (folder / "database.dump").read_bytes()
    (folder / "database.dump").unlink()
    (folder / "database.dump").write_bytes(content[: len(content) // 2])


def forget_an_artifact(folder: Path) -> None:
    """As a copy that was cut short would, sums and all."""
    file = first_artifact(folder)
    file.unlink()
    sums = (folder / "SHA256SUMS").read_text().splitlines(keepends=True)
    (folder / "SHA256SUMS").unlink()
    (folder / "SHA256SUMS").write_text(
        "".join(line for line in sums if str(file.relative_to(folder)) not in line)
    )


def add_a_file(folder: Path) -> None:
    (folder / "artifacts" / "stranger").touch()


def lose_the_facts(folder: Path) -> None:
    (folder / "backup.json").unlink()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (flip_a_byte, "is damaged"),
        (cut_the_dump, "is damaged"),
        (forget_an_artifact, "have a checksum"),
        (add_a_file, "have a checksum"),
        (lose_the_facts, "no backup.json"),
    ],
)
def test_a_damaged_backup_is_refused_and_nothing_is_written(
    backup: Path, other: Stack, tmp_path: Path, damage: Any, says: str
) -> None:
    copy = damaged_copy(backup, tmp_path / "copy")
    damage(copy)
    said = other.script("restore", copy)

    assert said.returncode == 2, said.stdout
    assert says in said.stdout.splitlines()[-1]
    assert volumes(other) == []


def test_a_project_with_a_database_is_not_restored_over(stack: Stack, backup: Path) -> None:
    before = stack.sql("SELECT count(*) FROM metrics")
    said = stack.script("restore", backup)

    assert said.returncode == 2
    assert (
        said.stdout.splitlines()[-1]
        == "restore: the database of this project holds something; name an empty project (--project NAME)"
    )
    assert stack.sql("SELECT count(*) FROM metrics") == before


def test_artifacts_are_not_restored_over_and_missing_rows_are_seen(
    backup: Path, other: Stack, tmp_path: Path
) -> None:
    touch = ("run", "--rm", "--no-deps", "-T", "--entrypoint", "touch", "mlflow", "/artifacts/mine")
    other.compose(*touch)
    said = other.script("restore", backup)

    assert said.returncode == 2
    assert "the volume artifacts of this project holds something" in said.stdout
    assert other.sql("SELECT tablename FROM pg_tables WHERE schemaname = 'public'") == []

    # A dump that is readable but has a row less than it had: only the count can tell.
    other.compose("run", "--rm", "--no-deps", "-T", "--entrypoint", "rm", "mlflow", "/artifacts/mine")
    copy = damaged_copy(backup, tmp_path / "copy")
    facts = json.loads((copy / "backup.json").read_text())
    facts["rows"]["metrics"] += 1
    sums = (copy / "SHA256SUMS").read_text()
    old = hashlib.sha256((copy / "backup.json").read_bytes()).hexdigest()
    (copy / "backup.json").unlink()
    (copy / "backup.json").write_text(
        (backup / "backup.json")
        .read_text()
        .replace(f'"metrics": {facts["rows"]["metrics"] - 1}', f'"metrics": {facts["rows"]["metrics"]}')
    )
    new = hashlib.sha256((copy / "backup.json").read_bytes()).hexdigest()
    (copy / "SHA256SUMS").unlink()
    (copy / "SHA256SUMS").write_text(sums.replace(old, new))
    said = other.script("restore", copy)

    assert said.returncode == 1
    assert f"< metrics: {facts['rows']['metrics']}" in said.stdout


def test_backup_refuses_a_folder_that_is_there_and_a_stack_that_is_not_up(
    stack: Stack, backup: Path, other: Stack, tmp_path: Path
) -> None:
    assert "is there already" in (said := stack.script("backup", backup)).stdout
    assert said.returncode == 2
    assert "postgres is not running" in (said := other.script("backup", tmp_path / "new")).stdout
    assert said.returncode == 2
    assert not (tmp_path / "new").exists()


def test_checkpoints_are_not_copied_while_the_trainer_writes_them(stack: Stack, tmp_path: Path) -> None:
    at_work = stack.compose("run", "--detach", "--no-deps", "--entrypoint", "sleep", "trainer", "60").stdout
    try:
        said = stack.script("backup", "--runs", tmp_path / "busy")
    finally:
        subprocess.run(["docker", "rm", "--force", at_work.split()[-1]], check=True, capture_output=True)

    assert said.returncode == 2
    assert "the trainer is at work" in said.stdout


def test_a_backup_that_is_cut_off_leaves_nothing(stack: Stack, tmp_path: Path) -> None:
    docker = shutil.which("docker")
    (tmp_path / "bin").mkdir()
    shim = tmp_path / "bin" / "docker"
    shim.write_text(
        f'#!/bin/bash\ncase "$*" in *"tar --create"*) {docker} "$@" | head -c 1024000; exit 1 ;; esac\n'
        f'exec {docker} "$@"\n'
    )
    shim.chmod(0o755)
    (tmp_path / "backups").mkdir()
    said = stack.script("backup", tmp_path / "backups" / "one", path=f"{shim.parent}:{ENVIRONMENT['PATH']}")

    assert said.returncode != 0
    assert list((tmp_path / "backups").iterdir()) == []
