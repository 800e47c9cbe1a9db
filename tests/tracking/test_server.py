"""An MLflow that is not there, refuses or never answers is named with the cure, in time."""

from __future__ import annotations

import http.server
import os
import shutil
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from mlflow.exceptions import MlflowException

from tests.tracking.conftest import Server
from tests.tracking.models import finished_run, network, register_it
from trainer.cli import main
from trainer.errors import TrackingError
from trainer.tracking import _server as tracking_server
from trainer.tracking import check_reachable, load_model, tracking_uri
from trainer.tracking._server import check_address, connect, is_outage


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
    assert time.monotonic() - begun < 30  # MLflow's own limit is 120


@pytest.mark.slow
def test_processes_that_come_to_an_empty_store_at_once_all_get_through(tmp_path: Path) -> None:
    """A run of a second is over before its sync has made the tables; what an earlier one was cut off in is gone."""
    (tmp_path / ".mlflow.db").write_bytes(b"half of a store")
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    code = f"from trainer.tracking._server import connect; connect({uri!r}).search_experiments()"
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) for _ in range(3)
    ]
    said = [process.communicate(timeout=300)[1] for process in processes]

    assert [process.returncode for process in processes] == [0, 0, 0], said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mlflow.db", "mlflow.lock"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file where a folder should be")

    with pytest.raises(TrackingError, match=r"runs/mlflow\.db cannot be written"):
        check_reachable(tracking_uri(tmp_path / "runs"))


def test_a_store_that_is_something_else_is_named(tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(b"no database\n" * 100)
    with pytest.raises(MlflowException, match="file is not a database") as raised:
        connect(tracking_uri(tmp_path))
    assert not is_outage(raised.value)

    (tmp_path / "mlflow.db").unlink()
    os.mkfifo(tmp_path / "mlflow.db")
    with pytest.raises(TrackingError, match="is no file"):
        connect(tracking_uri(tmp_path))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("http://me:secret@host:5000", "http://host:5000"),
        ("https://TOKEN@host/a", "https://host/a"),
        ("http://me:se@cret@host", "http://host"),
        ("postgresql+psycopg2://me:secret@db:5432/mlflow", "postgresql+psycopg2://db:5432/mlflow"),
        ("API request to http://me:secret@host/api/2.0 failed", "API request to http://host/api/2.0 failed"),
        ("sqlite:////home/me@work/mlflow.db", "sqlite:////home/me@work/mlflow.db"),
        ("http://host/a?b=c@d", "http://host/a?b=c@d"),
    ],
)
def test_a_password_in_an_address_is_not_shown(text: str, shown: str) -> None:
    assert tracking_server.redact(text) == shown


def test_a_proxy_in_between_is_named_and_not_taken_for_a_dead_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracking_server, "TIMEOUT", 1)
    for name in ("http_proxy", "HTTP_PROXY", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HTTP_PROXY", "http://me:secret@127.0.0.1:9")

    with pytest.raises(TrackingError) as refused:
        check_reachable("http://localhost:5000")
    said = str(refused.value)
    assert "by way of the proxy http://127.0.0.1:9 (HTTP_PROXY); if no proxy belongs between" in said
    assert "add localhost to NO_PROXY" in said
    assert "secret" not in said
    monkeypatch.setenv("NO_PROXY", "localhost,127.0.0.1")
    with pytest.raises(TrackingError) as refused:
        check_reachable("http://localhost:9")
    assert "proxy" not in str(refused.value)


def test_a_proxy_that_answers_itself_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    class Proxy(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(407, "who are you")

        def log_message(self, *_: object) -> None:
            pass

    for name in ("http_proxy", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Proxy) as proxy:
        threading.Thread(target=proxy.serve_forever, daemon=True).start()
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.server_port}")
        with pytest.raises(
            TrackingError, match=r"answers 407 .* by way of the proxy http://127\.0\.0\.1:\d+ "
        ):
            check_reachable("http://mlflow.example:5000")
        proxy.shutdown()


@pytest.mark.parametrize("name", ["#3", "50% off; & café 中+=,@:"])
def test_a_folder_of_any_name_holds_runs_models_and_their_store(
    tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    runs = tmp_path / name
    runs.mkdir()
    shutil.copy(empty_store, runs / "mlflow.db")

    registered = register_it(finished_run(runs / "r"), network())

    assert load_model("models:/tiny@candidate", runs=runs).registered == registered
    assert {path.name for path in tmp_path.iterdir()} == {name}
    assert {"mlflow.db", "artifacts", "r"} <= {path.name for path in runs.iterdir()}


@pytest.mark.parametrize("name", ["a%41b", "100%20 #1", "what?x=1", "caf\udce9"])
@pytest.mark.parametrize("command", [["train", "digits", "--set", "global_batch=8"], ["find-lr", "digits"]])
def test_a_folder_whose_name_no_store_can_have_is_refused_before_anything_is_begun(
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    name: str,
    command: list[str],
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    arguments = [
        *command,
        "--set",
        "classes=2",
        "--set",
        "global_batch=8",
        "--data",
        str(photos),
        "--device",
        "cpu",
        "--dry-run",
    ]
    if command[0] == "find-lr":
        arguments.remove("--dry-run")
    assert main([*arguments, "--runs", str(tmp_path / name)]) == 2

    said = capsys.readouterr().err
    assert said.startswith(("trainer: --runs ", "trainer: the folder"))
    assert said.count("\n") == 1
    assert not any(tmp_path.rglob("*.*"))


def test_tracking_costs_nothing_to_import() -> None:
    code = "import sys, trainer.tracking; print(any(name in sys.modules for name in ('mlflow', 'torch')))"

    assert subprocess.check_output([sys.executable, "-c", code]) == b"False\n"


@pytest.mark.parametrize("uri", ["sqlite:///:memory:", "sqlite:///"])
def test_a_store_in_memory_is_refused(uri: str) -> None:
    with pytest.raises(TrackingError, match="gone with each process"):
        check_address(uri)
