"""What the stack keeps closed: its secrets, and MLflow once compose.auth.yaml asks for a login."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.stack.conftest import MARKS, Stack

pytestmark = MARKS

SEARCH = "/api/2.0/mlflow/experiments/search?max_results=1"
TRACK = """
import mlflow
from trainer.tracking import check_reachable

check_reachable()
mlflow.set_experiment("with-login")
with mlflow.start_run():
    mlflow.log_metric("top1", 0.5)
    mlflow.log_text("weights", "weights.txt")
"""


def setting(stack: Stack, name: str) -> str:
    return re.findall(rf"^{name}=(.+)$", (stack.folder / ".env").read_text(), re.MULTILINE)[-1]


def test_the_database_password_is_in_no_log_param_tag_artifact_image_and_not_with_the_trainer(
    stack: Stack,
) -> None:
    password = setting(stack, "POSTGRES_PASSWORD")
    trainer = stack.containers()["trainer"]
    places = {
        "logs": stack.compose("logs").stdout,
        "database": stack.compose("exec", "-T", "postgres", "pg_dump", "--username=mlflow", "mlflow").stdout,
        "trainer": subprocess.check_output(["docker", "inspect", trainer["Id"]], text=True),
        "files": stack.compose(
            "exec", "-T", "mlflow", "grep", "-rlF", password, "/artifacts", check=False
        ).stdout,
    }
    for image in (trainer["Config"]["Image"], stack.containers()["mlflow"]["Config"]["Image"]):
        places[image] = subprocess.check_output(["docker", "history", "--no-trunc", image], text=True)

    assert "mlflow" in places["logs"]
    assert "CREATE TABLE public.params" in places["database"]
    assert places.pop("files") == ""
    for place, text in places.items():
        assert password not in text, place


@pytest.fixture(scope="module")
def login(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A second project, with compose.auth.yaml."""
    login = replace(
        stack.sibling("login", tmp_path_factory.mktemp("login")),
        files=("compose.yaml", "compose.cpu.yaml", "compose.auth.yaml"),
    )
    try:
        login.compose("up", "--detach", "--wait", "mlflow")
        yield login
    finally:
        login.down()


def ask(stack: Stack, method: str, path: str, user: tuple[str, str] | None, **body: Any) -> requests.Response:
    return requests.request(method, stack.uri + path, auth=user, json=body or None, timeout=30)


def test_without_a_login_or_with_a_wrong_one_mlflow_tells_nothing(login: Stack) -> None:
    for user in (None, ("admin", "password1234"), ("nobody", "")):
        for path in (SEARCH, "/", "/api/2.0/mlflow-artifacts/artifacts"):
            assert ask(login, "GET", path, user).status_code == 401, (path, user)


def test_the_trainer_tracks_with_its_login_and_a_second_user_reads_but_changes_nothing(login: Stack) -> None:
    login.compose("run", "--rm", "--no-deps", "-T", "--entrypoint", "python", "trainer", "-c", TRACK)
    admin = ("admin", setting(login, "MLFLOW_AUTH_ADMIN_PASSWORD"))
    reader = ("reader", "a password of 1 reader")
    made = ask(login, "POST", "/api/2.0/mlflow/users/create", admin, username=reader[0], password=reader[1])
    assert made.status_code == 200, made.text

    found = ask(login, "GET", "/api/2.0/mlflow/experiments/get-by-name?experiment_name=with-login", reader)
    experiment = found.json()["experiment"]["experiment_id"]
    runs = ask(login, "POST", "/api/2.0/mlflow/runs/search", reader, experiment_ids=[experiment])
    (run,) = runs.json()["runs"]
    assert [(one["key"], one["value"]) for one in run["data"]["metrics"]] == [("top1", 0.5)]
    denied = ask(login, "POST", "/api/2.0/mlflow/runs/delete", reader, run_id=run["info"]["run_id"])
    assert denied.status_code == 403


def test_the_users_are_in_the_backup(login: Stack, tmp_path: Path) -> None:
    said = login.script("backup", tmp_path / "backup")

    assert said.returncode == 0, said.stdout
    assert '"users": ' in (tmp_path / "backup" / "backup.json").read_text()
    assert login.sql("SELECT username FROM users WHERE is_admin") == ["admin"]


def test_no_login_password_is_in_a_log(login: Stack) -> None:
    logs = login.compose("logs").stdout

    assert "mlflow" in logs
    for name in ("POSTGRES_PASSWORD", "MLFLOW_AUTH_ADMIN_PASSWORD", "MLFLOW_FLASK_SERVER_SECRET_KEY"):
        assert setting(login, name) not in logs


def test_mlflow_neither_calls_other_hosts_for_a_client_nor_starts_jobs(stack: Stack) -> None:
    answer = requests.get(f"{stack.uri}/api/3.0/mlflow/gateway/endpoints/list", timeout=30)

    assert answer.status_code == 501, answer.text
