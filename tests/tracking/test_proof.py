"""What the end of a run needs of MLflow is missed before its first step."""

from __future__ import annotations

import http.server
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.tracking.conftest import Server
from trainer.errors import TrackingDown, TrackingError
from trainer.tracking import Question, check_reachable
from trainer.tracking._proof import RUN, ProofProcess, prove
from trainer.tracking._server import check_address, connect

Answer = tuple[int, bytes] | None


@contextmanager
def proxy(to: str, answer: Callable[[str, str], Answer]) -> Iterator[str]:
    """Address of a server before another; what `answer` says of method and path, it answers itself."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

        def pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            own = answer(self.command, self.path)
            if own is None:
                kept = {k: v for k, v in self.headers.items() if k.lower() in ("content-type", "accept")}
                request = urllib.request.Request(to + self.path, body or None, kept, method=self.command)
                try:
                    with urllib.request.urlopen(request) as theirs:
                        own = theirs.status, theirs.read()
                except urllib.error.HTTPError as error:
                    own = error.code, error.read()
            self.send_response(own[0])
            self.send_header("Content-Length", str(len(own[1])))
            self.end_headers()
            self.wfile.write(own[1])

        do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = do_HEAD = pass_on

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def question(runs: Path, *, dry: bool = False) -> Question:
    return Question(runs, f"experiment-{uuid.uuid4().hex}", "resnet50-proof", dry)


@pytest.mark.parametrize(
    "address",
    [
        "localhost:5077",
        "127.0.0.1:5077",
        '"http://127.0.0.1:5077"',
        "'http://127.0.0.1:5077'",
        "./mlruns",
        "http:/127.0.0.1:5077",
        "http://",
        "http://:5077",
        "http://127.0.0.1:port",
        "http://127.0.0.1:99999",
        "http://[::1",
        "http://127.0.0.1:5077 ",
        "http://127.0.0.1:5077\r",
        "file:///tmp/mlruns",
        "databricks",
        "ftp://127.0.0.1",
        "sqlite:mlflow.db",
        "http//127.0.0.1:5077",
    ],
)
def test_an_address_at_which_no_server_can_answer_is_refused_at_once(address: str) -> None:
    for check in (check_address, check_reachable):
        begun = time.monotonic()
        with pytest.raises(
            TrackingError, match="is not the address of an MLflow server; write it as http://HOST"
        ):
            check(address)
        assert time.monotonic() - begun < 5  # of the 10 that a server is waited for


@pytest.mark.parametrize("page", ["/#/experiments/1", "/#", "/?x=1", "#/experiments/1/runs/2"])
def test_the_address_of_a_page_is_refused_with_that_of_the_server(page: str) -> None:
    with pytest.raises(TrackingError, match=r"of a page in MLflow's UI; use http://127\.0\.0\.1:5077$"):
        check_address(f"http://me:secret@127.0.0.1:5077{page}")


@pytest.mark.parametrize(
    "address", ["http://h", "https://h:5000/mlflow/", "http://me:a@h:5000", "http://[::1]:5000"]
)
def test_addresses_of_servers_are_taken(address: str) -> None:
    check_address(address)


@pytest.mark.parametrize("body", [b"<!doctype html><title>Sign in</title>", b"[]", b'{"hello": 1}', b""])
def test_a_page_instead_of_a_server_is_refused(body: bytes) -> None:
    with (
        proxy("", lambda *_: (200, body)) as address,
        pytest.raises(
            TrackingError, match=r"is a page and not MLflow; .* no login or proxy stands before it"
        ),
    ):
        check_reachable(address)


def test_an_mlflow_of_version_2_is_refused_with_the_version_that_is_needed(server: Server) -> None:
    def without(_: str, path: str) -> Answer:
        return (404, b"Not Found") if "logged-models" in path else None

    with (
        proxy(server.uri, without) as address,
        pytest.raises(
            TrackingError, match=r"404 .*it has no logged-models/search: use .* version 3.0 or newer"
        ),
    ):
        check_reachable(address)


def test_all_that_a_run_will_do_is_tried_and_taken_back(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = question(tmp_path)
    with proxy(server.uri, lambda *_: None) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)

        assert prove(asked) == f"{address}; the experiment {asked.experiment} was made"
        assert prove(asked) == address

    client = connect(server.uri)
    experiment = client.get_experiment_by_name(asked.experiment)
    assert client.search_runs([experiment.experiment_id]) == []
    assert client.search_logged_models([experiment.experiment_id]) == []
    (run, _) = client.search_runs([experiment.experiment_id], run_view_type=2)
    assert run.info.run_name == RUN
    assert client.list_artifacts(run.info.run_id) == []


def refused(words: str, *methods: str) -> Callable[[str, str], Answer]:
    def answer(method: str, path: str) -> Answer:
        if words in path and method in methods:
            return (
                500 if "artifacts" in words else 403,
                b'{"error_code": "PERMISSION_DENIED", "message": "no"}',
            )
        return None

    return answer


@pytest.mark.parametrize(
    ("what", "methods", "says"),
    [
        ("experiments/create", ["POST"], "cannot make the experiment"),
        ("runs/create", ["POST"], "cannot make a run"),
        ("runs/log-batch", ["POST"], "cannot take metrics and parameters"),
        ("mlflow-artifacts/artifacts", ["PUT"], "cannot store a file and give it back"),
        ("mlflow-artifacts/artifacts", ["GET"], "cannot store a file and give it back"),
        ("logged-models", ["DELETE"], "cannot log the model resnet50-proof"),
        ("registered-models/get", ["GET"], "cannot register the model resnet50-proof"),
    ],
)
def test_what_a_server_does_not_do_is_named_before_the_run(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    methods: list[str],
    says: str,
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with proxy(server.uri, refused(what, *methods)) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)

        asked = question(tmp_path)
        with pytest.raises(TrackingError, match=says) as error:
            prove(asked)
    assert "\n" not in str(error.value)
    client = connect(server.uri)
    if experiment := client.get_experiment_by_name(asked.experiment):
        assert client.search_runs([experiment.experiment_id]) == []


def test_a_registered_model_that_belongs_to_somebody_else_is_named(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    connect(server.uri).create_registered_model("theirs")
    with proxy(server.uri, refused("registered-models/set-tag", "POST")) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)

        with pytest.raises(TrackingError, match="cannot register the model theirs"):
            prove(question(tmp_path)._replace(model="theirs"))


def test_another_file_than_was_stored_is_no_store(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def altered(method: str, path: str) -> Answer:
        return (200, b"altered") if path.endswith("/check.txt") and method == "GET" else None

    with proxy(server.uri, altered) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)

        with pytest.raises(TrackingError, match="another file came back"):
            prove(question(tmp_path))


def test_a_local_store_is_proven_too(runs: Path) -> None:
    asked = question(runs)

    assert f"mlflow.db; the experiment {asked.experiment} was made" in prove(asked)
    assert not list((runs / "artifacts").rglob("check.txt"))


def test_a_local_store_that_is_none_is_named(runs: Path) -> None:
    (runs / "mlflow.db").write_bytes(b"no database" * 1000)

    with pytest.raises(TrackingError, match=r"mlflow\.db cannot be opened: .*not a database"):
        prove(question(runs))


def test_a_dry_run_makes_no_local_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    assert prove(question(tmp_path, dry=True)) == f"{tmp_path / 'mlflow.db'}, which the run will make"
    assert list(tmp_path.iterdir()) == []


BESIDE = """
import sys
from pathlib import Path
from trainer.errors import TrackingError
from trainer.tracking import Question
from trainer.tracking._proof import ProofProcess

with ProofProcess(Question(Path(sys.argv[1]), "photos", "resnet50-proof", False)) as proof:
    try:
        print(proof.run())
    except TrackingError as error:
        print(type(error).__name__, error)
assert "mlflow" not in sys.modules, "it was proven in this process"
"""


def beside(runs: Path) -> str:
    return subprocess.check_output([sys.executable, "-c", BESIDE, runs], text=True)


@pytest.mark.slow
def test_it_is_proven_beside_a_process_that_imports_torch_meanwhile(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert beside(runs).endswith("mlflow.db; the experiment photos was made\n")

    (runs / "mlflow.db").write_bytes(b"no database" * 1000)
    assert beside(runs).startswith("TrackingError MLflow at sqlite:")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    assert beside(runs).startswith("TrackingDown MLflow at http://127.0.0.1:9")


def test_a_process_with_threads_proves_in_place(runs: Path) -> None:
    with ProofProcess(question(runs)) as proof:
        assert "mlflow.db" in proof.run()


def test_a_server_that_is_down_may_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("trainer.tracking._server.TIMEOUT", 1)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")

    with pytest.raises(TrackingDown):
        prove(question(tmp_path))
