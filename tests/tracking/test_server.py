"""An MLflow that is not there, refuses or never answers is named with the cure, in time."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tracking.conftest import Server
from trainer.errors import TrackingError
from trainer.tracking import _server as tracking_server
from trainer.tracking import check_reachable, tracking_uri


def test_a_server_that_refuses_this_host_name_is_named_with_the_cure(server: Server) -> None:
    check_reachable()

    with pytest.raises(
        TrackingError, match=rf"403.*add localhost:{server.port} to MLFLOW_SERVER_ALLOWED_HOSTS"
    ):
        check_reachable(server.uri.replace("127.0.0.1", "localhost"))


def test_a_server_that_is_not_there_is_named_with_the_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_server, "TIMEOUT", 1)
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        port = nobody.getsockname()[1]

        with pytest.raises(
            TrackingError, match=rf"MLflow at http://127\.0\.0\.1:{port} .*connection refused"
        ):
            check_reachable(f"http://me:secret@127.0.0.1:{port}")


def test_a_server_that_never_answers_is_named_within_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_server, "TIMEOUT", 1.5)
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        begun = time.monotonic()

        with pytest.raises(TrackingError, match="no answer in time"):
            check_reachable(f"http://127.0.0.1:{deaf.getsockname()[1]}")
    assert time.monotonic() - begun < 5


def test_processes_that_come_to_an_empty_store_at_once_all_get_through(tmp_path: Path) -> None:
    """A run of a second is over before its sync has made the tables."""
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    code = f"from trainer.tracking._server import connect; connect({uri!r}).search_experiments()"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    said = [process.communicate(timeout=120)[1] for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0], said


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")

    with pytest.raises(TrackingError, match=r"runs/mlflow\.db cannot be written"):
        check_reachable(tracking_uri(tmp_path / "runs"))


def test_a_password_in_the_address_is_not_shown() -> None:
    assert tracking_server.redact("http://me:secret@host:5000") == "http://host:5000"


def test_tracking_costs_nothing_to_import() -> None:
    code = "import sys, trainer.tracking; print(any(name in sys.modules for name in ('mlflow', 'torch')))"

    assert subprocess.check_output([sys.executable, "-c", code]) == b"False\n"
