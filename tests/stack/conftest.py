"""The stack that these tests drive: the real compose files, under a project name and port of their own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import free_port

ROOT = Path(__file__).parents[2]
# A variable of the caller's shell would win over the stack's own .env.
SETTINGS = set(re.findall(r"^#? ?([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
ENVIRONMENT = {
    key: value for key, value in os.environ.items() if key not in SETTINGS and "COMPOSE" not in key
}

# A smaller network for fewer epochs than the recipe's, for the tests wait for them.
QUICK = ["epochs=4", "model=resnet18"]

# Of every test that drives the stack. The first one waits for the images to be built and for the training.
MARKS = [pytest.mark.stack, pytest.mark.slow, pytest.mark.timeout(1500)]


@dataclass(frozen=True)
class Stack:
    """A Compose project of its own."""

    project: str
    folder: Path  # holds .env and export/
    port: int  # of MLflow on 127.0.0.1
    files: tuple[str, ...] = ("compose.yaml", "compose.cpu.yaml")

    @property
    def uri(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def compose(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run `docker compose`; what it printed, both streams in one, is in `stdout`."""
        files = [part for name in self.files for part in ("-f", str(ROOT / name))]
        command = ["docker", "compose", "-p", self.project, "--env-file", str(self.folder / ".env"), *files]
        done = subprocess.run(
            [*command, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=ENVIRONMENT,
        )
        assert not check or done.returncode == 0, (
            f"{' '.join(arguments)}: exit {done.returncode}\n{done.stdout}"
        )
        return done

    def script(
        self, name: str, *arguments: str | Path, path: str = ENVIRONMENT["PATH"]
    ) -> subprocess.CompletedProcess[str]:
        """Run scripts/`name` for this project; what it printed, both streams in one, is in `stdout`."""
        settings = {
            "COMPOSE_PROJECT_NAME": self.project,
            "COMPOSE_ENV_FILES": str(self.folder / ".env"),
            "COMPOSE_FILE": ":".join(str(ROOT / name) for name in self.files),
            "PATH": path,
        }
        return subprocess.run(
            [ROOT / "scripts" / name, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=ENVIRONMENT | settings,
        )

    def sibling(self, project: str, folder: Path, **settings: object) -> Stack:
        """Another project with the same `.env`, but a port of its own and `settings`; `folder` gets its `.env`."""
        port = free_port()
        lines = "".join(f"{key}={value}\n" for key, value in ({"MLFLOW_PORT": port} | settings).items())
        (folder / ".env").write_text((self.folder / ".env").read_text() + lines)
        return replace(self, project=f"{self.project}-{project}", folder=folder, port=port)

    def down(self) -> None:
        """Remove containers, networks and volumes."""
        self.compose("--profile", "*", "down", "--volumes", "--timeout", "5")

    def containers(self) -> dict[str, dict[str, Any]]:
        """What `docker inspect` says about every container of the project, by service."""
        ids = self.compose("ps", "--all", "--quiet").stdout.split()
        found = json.loads(subprocess.check_output(["docker", "inspect", *ids]))
        return {one["Config"]["Labels"]["com.docker.compose.service"]: one for one in found}

    def sql(self, query: str) -> list[str]:
        """Lines that Postgres answers, fields separated by |."""
        psql = ("psql", "--username=mlflow", "--no-align", "--tuples-only", f"--command={query}")
        return self.compose("exec", "-T", "postgres", *psql).stdout.splitlines()


def no_engine() -> str | None:
    """Why the stack cannot run here: there is no Docker Engine with Compose v2. None if there is."""
    for command in (["docker", "compose", "version"], ["docker", "info"]):
        if shutil.which("docker") is None or subprocess.run(command, capture_output=True).returncode:
            return f"`{' '.join(command)}` fails here: the stack needs a Docker Engine with Compose v2"
    return None


@pytest.fixture(scope="session")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack that was set up and has trained digits on the CPU, as README says but with QUICK settings."""
    if reason := no_engine():
        # In CI nothing may be skipped.
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(reason)
    folder = tmp_path_factory.mktemp("stack")
    assert set_up(folder).returncode == 0
    port = free_port()
    with (folder / ".env").open("a") as env:
        # A tag of its own, so that the images of a stack in use stay.
        env.write(f"MLFLOW_PORT={port}\nEXPORT_DIR={folder / 'export'}\nTRAINER_VERSION=tested\n")
        env.write(f"TRAINER_ARGS={' '.join(f'--set {setting}' for setting in QUICK)}\n")
    stack = Stack(f"trainer-test-{os.getpid()}", folder, port)
    try:
        said = stack.compose("up", "trainer").stdout  # ends well whatever the trainer's exit code
        assert stack.containers()["trainer"]["State"]["ExitCode"] == 0, said
        yield stack
    finally:
        stack.down()


def set_up(folder: Path, docker: str = "") -> subprocess.CompletedProcess[str]:
    """Run scripts/setup in `folder` as if that were the checkout; `docker`: see `run_setup`."""
    prepare(folder)
    return run_setup(folder, docker)


def prepare(folder: Path) -> None:
    """Put into `folder` what scripts/setup needs of a checkout."""
    (folder / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "setup", folder / "scripts")
    shutil.copy(ROOT / ".env.example", folder)


def run_setup(folder: Path, docker: str = "", *options: str) -> subprocess.CompletedProcess[str]:
    """Run scripts/setup in `folder`, which holds it; with `docker`, that shell code answers as the command `docker`."""
    environment = ENVIRONMENT
    if docker:
        (folder / "bin").mkdir(exist_ok=True)
        (folder / "bin" / "docker").write_text(f"#!/bin/sh\nset -eu\n{docker}\n")
        (folder / "bin" / "docker").chmod(0o755)
        environment = ENVIRONMENT | {"PATH": f"{folder / 'bin'}:{ENVIRONMENT['PATH']}"}
    script = [folder / "scripts" / "setup", "--no-build", *options]
    return subprocess.run(script, capture_output=True, text=True, env=environment)
