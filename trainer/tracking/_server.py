"""The connection to MLflow: imported late, for that takes seconds; without its warnings; with a timeout."""

from __future__ import annotations

import importlib.util
import logging
import os
import re
import sqlite3
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlsplit
from urllib.request import getproxies, proxy_bypass

from trainer.errors import ConfigError, TrackingDown, TrackingError
from trainer.files import file_lock

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

_CREDENTIALS = re.compile(r"(?<=://)[^/\s?#]*@")
SQLITE = "sqlite:///"
TIMEOUT = 10.0  # seconds that `check_reachable` tries
CREATION_TIMEOUT = 120.0  # seconds that another process may take to make an SQLite store


def tracking_uri(runs: Path) -> str:
    """Tracking URI of the runs below the folder `runs`: MLFLOW_TRACKING_URI, else an SQLite file in `runs`.

    Raises: ConfigError if the folder's name cannot be that of a database or of a model's file.
    """
    database = runs.resolve() / "mlflow.db"
    try:
        str(database).encode()
    except UnicodeEncodeError:
        shown = str(runs).encode(errors="backslashreplace").decode()
        raise ConfigError(
            f"--runs {shown} has a name that is no UTF-8, with which torch cannot save"
        ) from None
    if uri := os.environ.get("MLFLOW_TRACKING_URI"):
        return uri
    # SQLAlchemy decodes it and reads options after the question mark; MLflow makes its folder without decoding.
    if unquote(str(database)) != str(database) or "?" in str(database):
        raise ConfigError(
            f"--runs {runs}: no SQLite store can be in {database.parent}, for its path has a ? or reads like %41"
        )
    return f"{SQLITE}{database}"


def database_of(uri: str) -> Path | None:
    """The file of an SQLite store; None if `uri` is no such."""
    return Path(uri.removeprefix(SQLITE)) if uri.startswith(SQLITE) else None


def run_tracking_uri(folder: Path) -> str:
    """Tracking URI of the run in `folder`, which may be a link to elsewhere: that of the folder it is named in."""
    return tracking_uri(Path(os.path.abspath(folder)).parent)


def check_reachable(uri: str | None = None) -> None:
    """Make sure that MLflow answers, before hours of work rely on it.

    Args:
        uri: a tracking URI, by default MLFLOW_TRACKING_URI. There is nothing to check if neither is set.

    Raises: TrackingError with the cause and its cure, after 10 s at most; TrackingDown if nothing answers, or the
        server answers with an error of its own.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or ""
    if not uri:
        return
    check_address(uri)
    if database := database_of(uri):
        _check_file(database)
    else:
        _check_server(uri)


def check_address(uri: str) -> None:
    """Refuse a tracking URI at which no MLflow can ever answer; nobody is asked. Raises: TrackingError."""
    if uri.startswith(SQLITE):
        if uri.removeprefix(SQLITE).partition("?")[0] in ("", ":memory:"):
            raise TrackingError(
                f"{uri} is a store in memory, gone with each process; name a file: {SQLITE}mlflow.db"
            )
        return
    shown = redact(uri)
    example = "write it as http://HOST:5000 or https://HOST"
    try:
        parts = urlsplit(uri)
        named = bool(parts.hostname) and parts.port != 0  # reading a port that is no number raises
    except ValueError:
        named, parts = False, urlsplit("")
    if parts.scheme not in ("http", "https") or not named or re.search(r"[\s\"'<>]", uri):
        raise TrackingError(
            f"MLFLOW_TRACKING_URI={shown!r} is not the address of an MLflow server; {example}"
        )
    if parts.fragment or parts.query or "#" in uri or "?" in uri:
        page = parts._replace(path=re.sub(r"/+$", "", parts.path), query="", fragment="").geturl()
        raise TrackingError(
            f"MLFLOW_TRACKING_URI={shown!r} is the address of a page in MLflow's UI; use {redact(page)}"
        )


def connect(uri: str) -> MlflowClient:
    """A client of the MLflow at `uri`. Of a server nothing is asked yet, so this returns at once.

    Raises: TrackingError if this installation cannot open such a store, or the store cannot be written;
        MlflowException if the store is damaged.
    """
    with quiet():
        from mlflow import MlflowClient
        from mlflow.exceptions import MlflowException
        from mlflow.protos.databricks_pb2 import INVALID_STATE

        logging.getLogger("alembic").setLevel(logging.ERROR)
        logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)  # it raises what it logs
        database = database_of(uri)
        if database is None:
            return MlflowClient(tracking_uri=uri, registry_uri=uri)
        _check_file(database)
        from sqlalchemy.exc import SQLAlchemyError

        # The first process makes the tables, for seconds; a trainer and its sync at once would both fail.
        busy = TrackingError(
            f"{database} is being made by another process, which takes too long; start again"
        )
        with file_lock(database.with_name("mlflow.lock"), timeout=CREATION_TIMEOUT, otherwise=busy):
            try:
                if not os.path.lexists(database):
                    _make_store(database)
                client = MlflowClient(tracking_uri=uri, registry_uri=uri)
                client.search_experiments(max_results=1)
            except SQLAlchemyError as error:  # which MLflow makes its own only once the store is open
                raise MlflowException(str(error), INVALID_STATE) from None
        return client


@contextmanager
def quiet() -> Iterator[None]:
    """Keep MLflow's and torch.export's warnings, which the user can do nothing about, off the terminal."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def redact(text: str) -> str:
    """`text` with each address in it without user, password or token: to be shown, or stored."""
    return _CREDENTIALS.sub("", text)


def shortened(error: Exception) -> str:
    """The error's text on one line, at most 300 characters, without passwords."""
    return redact(" ".join(str(error).split()))[:300]


def is_outage(error: MlflowException) -> bool:
    """Whether the same request may be answered later: no connection, or an error of the server's own."""
    return error.error_code in ("INTERNAL_ERROR", "TEMPORARILY_UNAVAILABLE", "REQUEST_LIMIT_EXCEEDED")


def _make_store(database: Path) -> None:
    """Make MLflow's tables in a new SQLite file: whole, or not at all.

    After each of its many steps SQLite would wait for the disk, for seconds altogether. Here it is waited for once, and
    a file that was cut off is made anew.
    """
    from mlflow import MlflowClient
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    def wait_for_nothing(connection: Any, _: object) -> None:
        if isinstance(connection, sqlite3.Connection):
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA journal_mode = MEMORY")

    partial = database.with_name(f".{database.name}")
    partial.unlink(missing_ok=True)
    event.listen(Engine, "connect", wait_for_nothing)
    try:
        MlflowClient(tracking_uri=f"{SQLITE}{partial}").search_experiments(max_results=1)
        with partial.open("rb") as file:
            os.fsync(file.fileno())
        partial.rename(database)
    finally:
        event.remove(Engine, "connect", wait_for_nothing)
        partial.unlink(missing_ok=True)


def _check_file(database: Path) -> None:
    if importlib.util.find_spec("sqlalchemy") is None:
        raise TrackingError(
            f"{database} cannot be opened: this installation has only MLflow's client; "
            "set MLFLOW_TRACKING_URI to a server, or install the `server` dependency group"
        )
    try:
        database.parent.mkdir(parents=True, exist_ok=True)
        if database.exists() and not database.is_file():  # SQLite would wait for a pipe
            raise TrackingError(f"{database} is no file; move it away, or choose another folder with --runs")
        writable = os.access(database if database.exists() else database.parent, os.W_OK)
    except OSError:
        writable = False
    if not writable:
        raise TrackingError(
            f"{database} cannot be written; choose another folder with --runs or mend its permissions"
        )


def _check_server(uri: str) -> None:
    connect(uri)  # its imports and settings
    end = time.monotonic() + TIMEOUT
    answer = _ask(uri, "GET", "experiments/search", {"max_results": 1}, end)
    # An MLflow that has no experiments answers {}; whoever else answers 200 does so with a page.
    if not isinstance(answer, dict) or not answer.keys() <= {"experiments", "next_page_token"}:
        raise TrackingError(
            f"what answers at {redact(uri)} is a page and not MLflow; check that MLFLOW_TRACKING_URI is the server's "
            "own address, and that no login or proxy stands before it"
        )
    ids = [one["experiment_id"] for one in answer.get("experiments", [])] or ["0"]
    # What the end of a run needs, and MLflow 2 has not.
    _ask(uri, "POST", "logged-models/search", {"experiment_ids": ids, "max_results": 1}, end, since="3.0")
    _ask(uri, "GET", "registered-models/search", {"max_results": 1}, end)


def _ask(
    uri: str, method: str, endpoint: str, content: dict[str, Any], end: float, *, since: str = ""
) -> Any:
    """The JSON that MLflow's REST API answers; None if it is none. It is tried again until `end`."""
    # No public API of MLflow: its client repeats a request for minutes, hides the status, and is the only one to
    # know the user's credentials and certificates.
    from mlflow.utils.credentials import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    shown = redact(uri)
    while True:
        try:
            answer = http_request(
                get_default_host_creds(uri),
                f"/api/2.0/mlflow/{endpoint}",
                method,
                max_retries=0,
                timeout=max(1.0, end - time.monotonic()),
                raise_on_status=False,
                **{"params" if method == "GET" else "json": content},
            )
        except Exception as error:
            if time.monotonic() + 1 < end and "timed out" not in str(error):
                time.sleep(1)
                continue
            raise TrackingDown(
                f"MLflow at {shown} (MLFLOW_TRACKING_URI) cannot be reached{_by_proxy(uri)}: {_reason(error)}; "
                "start it (Compose: `docker compose up -d mlflow`), or unset MLFLOW_TRACKING_URI to track into a file"
            ) from None
        break
    if answer.status_code == 200:
        try:
            return answer.json()
        except ValueError:
            return None
    match answer.status_code:
        case 401:
            cure = "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
        case 403:
            cure = (
                f"add {urlsplit(uri).netloc.rpartition('@')[2]} to MLFLOW_SERVER_ALLOWED_HOSTS of the server and "
                "restart it, or use an account with permission"
            )
        case 404 if since:
            cure = f"it has no {endpoint}: use an MLflow server of version {since} or newer"
        case 404:
            cure = "check that MLFLOW_TRACKING_URI is the address of an MLflow server"
        case _:
            cure = "look at the server's log (Compose: `docker compose logs mlflow`)"
    said = " ".join(answer.text.split())[:80]
    kind = TrackingDown if answer.status_code >= 500 else TrackingError
    raise kind(f"MLflow at {shown} answers {answer.status_code} ({said}){_by_proxy(uri)}; {cure}")


def _by_proxy(uri: str) -> str:
    """Words about the proxy of the environment that stands between here and `uri`; none if none does."""
    parts, proxies = urlsplit(uri), getproxies()
    proxy = proxies.get(parts.scheme) or proxies.get("all")
    if not proxy or not parts.hostname or proxy_bypass(parts.hostname):
        return ""
    return (
        f" by way of the proxy {redact(proxy)} ({parts.scheme.upper()}_PROXY); if no proxy belongs between, add "
        f"{parts.hostname} to NO_PROXY"
    )


def _reason(error: BaseException) -> str:
    text = str(error).lower()
    for sign, reason in {
        "refused": "connection refused",
        "resolve": "there is no host of this name",
        "name or service": "there is no host of this name",
        "timed out": "no answer in time",
        "unreachable": "no route to it",
        "certificate": "its TLS certificate is not trusted",
    }.items():
        if sign in text:
            return reason
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
