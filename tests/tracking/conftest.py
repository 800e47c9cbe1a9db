"""A real MLflow: SQLite stores, and a server that can be killed."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import free_port
from trainer.tracking import DatasetInfo, RunInfo

DATASET = DatasetInfo("photos", "d" * 64, "/data", {"train": 20, "val": 9})
SERVER_SECONDS = 120  # a start takes 12 to 50 s on 2 cores


def run_info(**changed: Any) -> RunInfo:
    """A run of the experiment `photos`."""
    return replace(RunInfo("first", "photos", params={"epochs": 3}, tags={}, dataset=DATASET), **changed)


@pytest.fixture
def runs(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for runs with a store of its own; a blank in its name, as users have it."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    folder = tmp_path / "my runs"
    folder.mkdir()
    shutil.copy(empty_store, folder / "mlflow.db")
    return folder


class Server:
    """An `mlflow server` on a loopback port, with its data in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        command += ["--backend-store-uri", f"sqlite:///{self._folder / 'mlflow.db'}", "--workers", "1"]
        command += ["--artifacts-destination", str(self._folder / "artifacts")]
        env = {**os.environ, "MLFLOW_SERVER_ALLOWED_HOSTS": "127.0.0.1:*", "MLFLOW_DISABLE_TELEMETRY": "true"}
        env["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"
        with (self._folder / "server.log").open("ab") as log:
            self._process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
        end = time.monotonic() + SERVER_SECONDS
        while time.monotonic() < end and self._process.poll() is None:
            try:
                with urllib.request.urlopen(f"{self.uri}/health", timeout=2):
                    return
            except OSError:
                time.sleep(0.3)
        raise AssertionError((self._folder / "server.log").read_text())

    def kill(self) -> None:
        """SIGKILL to all its processes."""
        if self._process is not None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            self._process = None
