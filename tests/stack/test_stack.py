"""The stack as README starts it: trained once on the CPU, then looked at from all sides."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities import Run

from tests.stack.conftest import ENVIRONMENT, MARKS, QUICK, ROOT, Stack
from trainer import metrics
from trainer.config import load_recipe
from trainer.dataset import open_dataset

pytestmark = MARKS

MODEL = "models:/resnet50-digits@candidate"
RECIPE = load_recipe("digits", QUICK)


@pytest.fixture(scope="module")
def client(stack: Stack) -> MlflowClient:
    from mlflow import MlflowClient

    return MlflowClient(stack.uri)


@pytest.fixture(scope="module")
def run(client: MlflowClient) -> Any:
    experiment = client.get_experiment_by_name(RECIPE.registered_model_name)
    (only,) = client.search_runs([experiment.experiment_id])
    return only


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from trainer.dataset import digits, prepare

    folder = tmp_path_factory.mktemp("data") / "digits"
    prepare(digits(), folder)
    return folder


def test_the_trainer_ends_well_and_its_tracker_stays(stack: Stack) -> None:
    containers = stack.containers()
    states = {service: one["State"]["Status"] for service, one in containers.items()}

    assert {states.pop(service) for service in ("postgres", "mlflow")} == {"running"}
    assert states == dict.fromkeys(("image", "migrate", "digits", "trainer"), "exited")
    assert containers["trainer"]["State"]["ExitCode"] == 0


def test_the_host_finds_one_finished_run_with_metrics_of_every_epoch(client: MlflowClient, run: Run) -> None:
    assert run.info.status == "FINISHED"
    for key in (metrics.VAL_TOP1, metrics.VAL_TOP5, metrics.VAL_LOSS):
        assert len(client.get_metric_history(run.info.run_id, key)) == RECIPE.epochs, key
    assert float(run.data.tags["top1"]) >= 0.9


def test_the_run_says_what_made_it(run: Run) -> None:
    head = subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip()

    assert run.data.tags["recipe"] == "digits"
    assert run.data.tags["git_commit"] == head
    assert run.data.tags["image"] == "trainer:tested"
    assert (run.data.tags["gpu"], run.data.tags["world_size"]) == ("cpu", "1")
    assert len(run.data.tags["dataset_digest"]) == 64


def test_postgres_holds_the_metrics(stack: Stack, run: Run) -> None:
    rows = stack.sql(
        f"SELECT key, count(*) FROM metrics WHERE run_uuid = '{run.info.run_id}' AND key LIKE 'eval/%' GROUP BY key"
    )

    assert f"{metrics.VAL_TOP1}|{RECIPE.epochs}" in rows


@pytest.mark.filterwarnings("ignore")  # MLflow's and torch.export's own
def test_the_registered_model_reaches_the_logged_accuracy_on_the_host(
    stack: Stack, run: Run, digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    import torch

    from trainer.dataloader import ValLoader
    from trainer.distributed import World
    from trainer.training import evaluate

    monkeypatch.setenv("MLFLOW_TRACKING_URI", stack.uri)
    alone = World(0, 1, torch.device("cpu"))
    network = mlflow.pytorch.load_model(MODEL)
    measured = evaluate(
        network, ValLoader(open_dataset(digits).val, RECIPE.preprocess, alone, batch=64), alone
    )

    assert measured.num_images == 360
    assert measured.top1 == pytest.approx(float(run.data.tags["top1"]), abs=1 / 360)


def test_the_run_has_its_recipe_its_journal_and_its_newest_and_best_checkpoints(
    client: MlflowClient, run: Run
) -> None:
    files = {one.path for one in client.list_artifacts(run.info.run_id)}
    checkpoints = [one.path for one in client.list_artifacts(run.info.run_id, "checkpoints")]

    made = {"recipe.json", "dataset.json", "model.txt", "journal.jsonl", "checkpoints", "bundle", "report"}
    assert files == made
    assert len(checkpoints) in (1, 2)  # the newest may be the best
    steps = RECIPE.epochs * (1437 // RECIPE.global_batch)
    assert max(checkpoints).startswith(f"checkpoints/step-{steps:08d}-")


def test_the_version_is_the_candidate_of_this_run(client: MlflowClient, run: Run) -> None:
    version = client.get_model_version_by_alias(RECIPE.registered_model_name, "candidate")

    assert version.run_id == run.info.run_id
    assert [
        one.version for one in client.search_model_versions(f"name='{RECIPE.registered_model_name}'")
    ] == [version.version]


def test_export_writes_a_bundle_whose_checksums_hold_once(stack: Stack) -> None:
    stack.compose("run", "--rm", "export")
    bundle = stack.folder / "export" / "resnet50-digits-1"
    lines = (line.split("  ", 1) for line in (bundle / "SHA256SUMS").read_text().splitlines())
    sums = {name: digest for digest, name in lines}
    files = {str(file.relative_to(bundle)): file for file in bundle.rglob("*") if file.is_file()}

    assert {"model.onnx", "labels.txt", "preprocess.json"} <= sums.keys()
    assert sums.keys() == files.keys() - {"SHA256SUMS"}
    for name, digest in sums.items():
        assert hashlib.sha256(files[name].read_bytes()).hexdigest() == digest, name
    assert files["model.onnx"].stat().st_uid == (os.getuid() or 1000)

    again = stack.compose("run", "--rm", "export", MODEL).stdout
    assert "export/resnet50-digits-1 holds the bundle of models:/resnet50-digits/1 already" in again


def test_the_same_command_finds_its_run_finished_and_trains_nothing(
    stack: Stack, client: MlflowClient
) -> None:
    stack.compose("up", "trainer")
    experiment = client.get_experiment_by_name(RECIPE.registered_model_name)

    assert stack.containers()["trainer"]["State"]["ExitCode"] == 0
    assert len(client.search_runs([experiment.experiment_id])) == 1


def test_bad_input_ends_in_one_sentence_and_exit_code_2(stack: Stack) -> None:
    command = ("run", "--rm", "--no-deps", "trainer")
    mistakes = {
        ("train", "digitz", "--data", "/data", "--runs", "/runs"): "did you mean digits",
        ("train", "digits", "--data", "/nowhere", "--runs", "/runs"): "/nowhere",
        (
            "train",
            "digits",
            "--data",
            "/data",
            "--runs",
            "/runs",
            "--name",
            "new",
            "--device",
            "cuda",
        ): "NVIDIA",
        ("export", "models:/nothing@candidate", "--out", "/tmp/bundle"): "nothing",
    }
    for arguments, says in mistakes.items():
        done = stack.compose(*command, *arguments, check=False)
        said = [line for line in done.stdout.splitlines() if line.startswith("trainer: ")]

        assert done.returncode == 2, done.stdout
        assert len(said) == 1, done.stdout
        assert says in said[0]


def test_a_missing_env_says_to_run_setup(stack: Stack, tmp_path: Path) -> None:
    (tmp_path / ".env").touch()
    done = replace(stack, folder=tmp_path).compose("up", "trainer", check=False)

    assert done.returncode != 0
    assert done.stdout.strip().endswith("run ./scripts/setup first")


def test_without_an_nvidia_runtime_the_gpu_stack_refuses_to_start(stack: Stack) -> None:
    runtimes = subprocess.check_output(["docker", "info", "--format", "{{json .Runtimes}}"], text=True)
    if "nvidia" in runtimes:
        pytest.skip("this Docker Engine has an NVIDIA runtime")
    gpu = replace(stack, files=("compose.yaml",))
    done = gpu.compose("run", "--rm", "--no-deps", "trainer", check=False)

    assert done.returncode != 0
    assert 'could not select device driver "nvidia"' in done.stdout


def test_only_mlflow_is_published_and_on_loopback_only(stack: Stack) -> None:
    published = {
        service: one["HostConfig"]["PortBindings"]
        for service, one in stack.containers().items()
        if one["HostConfig"]["PortBindings"]
    }

    assert published == {"mlflow": {"5000/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(stack.port)}]}}


def test_the_trainer_neither_reaches_postgres_nor_knows_its_password(stack: Stack) -> None:
    password = re.search(r"^POSTGRES_PASSWORD=(.+)$", (stack.folder / ".env").read_text(), re.MULTILINE)[1]
    containers = stack.containers()
    holders = {service for service, one in containers.items() if password in json.dumps(one["Config"]["Env"])}
    networks = {service: set(one["NetworkSettings"]["Networks"]) for service, one in containers.items()}
    database = f"{stack.project}_database"

    assert holders == {"postgres", "migrate", "mlflow"}
    assert {service for service, names in networks.items() if database in names} == holders
    assert (
        subprocess.check_output(
            ["docker", "network", "inspect", database, "--format", "{{.Internal}}"], text=True
        ).strip()
        == "true"
    )
    for one in containers.values():
        assert password not in json.dumps(
            [one["Config"]["Cmd"], one["Config"]["Entrypoint"], one["Path"], one["Args"]]
        )


def test_nothing_runs_as_root_or_can_write_its_image(stack: Stack) -> None:
    for service, one in stack.containers().items():
        assert one["HostConfig"]["ReadonlyRootfs"], service
        assert one["Config"]["User"].split(":")[0] not in ("", "0", "root"), service
    for service in ("postgres", "mlflow"):
        assert int(stack.compose("exec", "-T", service, "id", "-u").stdout) > 0
        assert (
            "CapEff:\t0000000000000000"
            in stack.compose("exec", "-T", service, "cat", "/proc/1/status").stdout
        )


ASK = """
import sys, urllib.error, urllib.request
request = urllib.request.Request("http://mlflow:5000" + sys.argv[1], headers={"Host": sys.argv[2]})
try:
    print(urllib.request.urlopen(request, timeout=10).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""


@pytest.mark.parametrize(("host", "answer"), [("mlflow:5000", "200"), ("evil.example:5000", "403")])
def test_the_api_answers_a_container_by_the_services_name_and_turns_strange_hosts_away(
    stack: Stack, host: Any, answer: Any
) -> None:
    path = "/api/2.0/mlflow/experiments/search?max_results=1"
    command = ("run", "--rm", "--no-deps", "-T", "--entrypoint", "python", "trainer", "-c", ASK, path, host)

    assert stack.compose(*command).stdout.splitlines()[-1] == answer


def test_the_trainers_own_torch_torchvision_and_dali_are_used(stack: Stack) -> None:
    code = (
        "import torch, torchvision, numpy, nvidia.dali as dali; "
        "print(*(m.__file__ for m in (torch, torchvision, numpy, dali)))"
    )
    said = stack.compose(
        "run", "--rm", "--no-deps", "-T", "--entrypoint", "python", "trainer", "-W", "ignore", "-c", code
    ).stdout.splitlines()[-1]

    assert "/opt/trainer" not in said


def test_evaluate_on_the_host_agrees(stack: Stack, run: Run, digits: Path) -> None:
    said = subprocess.check_output(
        [sys.executable, "-m", "trainer", "evaluate", MODEL, "--data", digits, "--json"],
        text=True,
        cwd=ROOT,
        env=ENVIRONMENT | {"MLFLOW_TRACKING_URI": stack.uri},
    )

    assert json.loads(said)["top1"] == pytest.approx(float(run.data.tags["top1"]), abs=1 / 360)
