"""What a run will ask of MLflow up to its end, asked before its first step."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sqlite3
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self

from trainer.errors import TrackingDown, TrackingError
from trainer.tracking._mlflow_run import find_or_make_experiment
from trainer.tracking._server import (
    check_address,
    check_reachable,
    connect,
    database_of,
    is_outage,
    quiet,
    redact,
    shortened,
    tracking_uri,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

SECONDS = 90.0  # that the proof may take after MLflow has answered
CONTENT = b"written by trainer to see whether it comes back\n"
RUN, FILE, TAG = "start-up check", "check.txt", "trainer.check"  # what is made and deleted


class Question(NamedTuple):
    """What shall be proven."""

    runs: Path  # folder of all runs
    experiment: str
    model: str  # registered model's name
    dry: bool  # leave a local store as it was


def prove(question: Question) -> str:
    """Take the steps of a run with an experiment, a run, its metrics and files, and a model, and take them back.

    What stays is said: the experiment, and in MLflow's own trash a run of this name.

    Returns: where runs are tracked, and what was made there, as words.
    Raises: TrackingError that names what MLflow does not do, TrackingDown if it may later.
    """
    uri = tracking_uri(question.runs)
    check_reachable(uri)
    if store := _store_to_come(question):
        _check_disk(store.parent)
        return f"{store}, which the run will make"
    return redact(uri) + _prove(question, uri)


def _store_to_come(question: Question) -> Path | None:
    """The local store that a dry run does not make; None if there is one, or a server."""
    store = database_of(tracking_uri(question.runs))
    return store if question.dry and store and not store.exists() else None


def _check_disk(folder: Path) -> None:
    """See that SQLite works there, for it needs locks. MLflow's own tables take seconds to make."""
    try:
        with (
            tempfile.TemporaryDirectory(prefix=".check-", dir=folder) as place,
            closing(sqlite3.connect(Path(place, "check.db"))) as database,
            database,
        ):
            database.execute("create table t (x)")
    except (OSError, sqlite3.Error) as error:
        raise TrackingError(
            f"an SQLite store cannot be made in {folder}: {error}; choose another --runs"
        ) from None


def _prove(question: Question, uri: str) -> str:
    from mlflow.exceptions import MlflowException

    stage = "be opened"
    try:
        with quiet():
            client = connect(uri)
            stage = f"make the experiment {question.experiment}"
            known = client.get_experiment_by_name(question.experiment) is not None
            experiment = find_or_make_experiment(question.runs / RUN, question.experiment, client)
            probe = _Probe(client, experiment, question.model)
            try:
                for stage, step in probe.steps():  # noqa: B007 - the stage is for errors
                    step()
            finally:
                with suppress(Exception):  # a server that keeps it does no harm
                    probe.remove()
    except TrackingError:
        raise
    except Exception as error:  # of the database's, the disk's and the store's own libraries
        kind = TrackingDown if isinstance(error, MlflowException) and is_outage(error) else TrackingError
        raise kind(f"MLflow at {redact(uri)} cannot {stage}: {shortened(error)}; {_cure(uri)}") from None
    return "" if known else f"; the experiment {question.experiment} was made"


def _cure(uri: str) -> str:
    if uri.startswith("sqlite:"):
        return "mend that, or choose another --runs"
    return "mend the server or its artifact store (Compose: `docker compose logs mlflow`) or this account's permissions"


class _Probe:
    """A run with all that a run leaves behind."""

    def __init__(self, client: MlflowClient, experiment: str, model: str) -> None:
        self._client, self._experiment, self._model = client, experiment, model
        self._run: Run | None = None

    def steps(self) -> Iterator[tuple[str, Callable[[], object]]]:
        """What a run does up to its end, in the order in which it does it, with the words for an error."""
        yield "make a run", self._begin
        yield "take metrics and parameters", self._log
        yield "store a file and give it back", self._store
        yield f"log the model {self._model}", self._log_model
        yield f"register the model {self._model}", self._tag_model

    def remove(self) -> None:
        """Take the run back: its file is deleted, the run itself goes to MLflow's trash."""
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        if self._run is None:
            return
        self._client.delete_run(self._run.info.run_id)
        stored = get_artifact_repository(self._run.info.artifact_uri, tracking_uri=self._client.tracking_uri)
        stored.delete_artifacts(FILE)

    def _begin(self) -> None:
        self._run = self._client.create_run(
            self._experiment, run_name=RUN, tags={"mlflow.source.name": "trainer"}
        )

    def _log(self) -> None:
        from mlflow.entities import Metric, Param

        metrics, params = [Metric("check", 1.0, 0, 0)], [Param("check", "1")]
        self._client.log_batch(self._id, metrics=metrics, params=params)

    def _store(self) -> None:
        from mlflow.artifacts import download_artifacts

        assert self._run is not None
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, FILE).write_bytes(CONTENT)
            self._client.log_artifact(self._id, str(Path(folder, FILE)))
            back = download_artifacts(
                artifact_uri=f"{self._run.info.artifact_uri}/{FILE}",
                dst_path=f"{folder}/back",
                tracking_uri=self._client.tracking_uri,
            )
            if Path(back).read_bytes() != CONTENT:
                raise OSError("another file came back")

    def _log_model(self) -> None:
        logged = self._client.create_logged_model(self._experiment, name=self._model, source_run_id=self._id)
        self._client.delete_logged_model(logged.model_id)

    def _tag_model(self) -> None:
        from mlflow.exceptions import MlflowException

        try:
            self._client.get_registered_model(self._model)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return
        self._client.set_registered_model_tag(self._model, TAG, "1")
        self._client.delete_registered_model_tag(self._model, TAG)

    @property
    def _id(self) -> str:
        assert self._run is not None
        return str(self._run.info.run_id)


class ProofProcess:
    """`prove` in a process beside this one, which imports MLflow while this one imports torch.

        with ProofProcess(question) as proof:   # before torch is imported
            ...                                 # imports, other checks
            proof.run()                         # nothing is looked at before

    A process that has threads already, as a notebook has, cannot be copied: there it is proven in place.
    """

    def __init__(self, question: Question) -> None:
        self.question = question
        self._process: multiprocessing.process.BaseProcess | None = None

    def __enter__(self) -> Self:
        if threading.active_count() == 1 and "torch" not in sys.modules and not _store_to_come(self.question):
            # A copy of this process is there at once, and nobody's __main__ is imported again.
            context = multiprocessing.get_context("fork")
            self._end, other = context.Pipe()
            self._process = context.Process(target=_serve, args=(other, self._end), daemon=True)
            self._process.start()
            other.close()
        return self

    def run(self) -> str:
        """What `prove` returns or raises, after a minute and a half at most."""
        check_address(tracking_uri(self.question.runs))
        if self._process is None:
            return prove(self.question)
        try:
            self._end.send(self.question)
            if self._end.poll(SECONDS):
                answer = self._end.recv()
                if isinstance(answer, Exception):
                    raise answer
                return str(answer)
        except (EOFError, ConnectionError):
            raise TrackingError(
                "MLflow could not be checked: the process that does it was killed; look at the memory of this machine"
            ) from None
        uri = redact(tracking_uri(self.question.runs))
        raise TrackingDown(f"MLflow at {uri} does not answer in time; look at the server's log")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process:
            self._end.close()
            self._process.kill()
            self._process.join()


def _serve(end: Connection, other: Connection) -> None:
    """One question: answered, or none came."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent tells
    other.close()
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    with quiet():
        import mlflow  # noqa: F401 - takes seconds, in which the question is found

    with suppress(EOFError, BrokenPipeError):
        question = end.recv()
        try:
            answer: str | Exception = prove(question)
        except TrackingError as error:
            answer = type(error)(str(error))
        except Exception as error:
            answer = TrackingError(f"MLflow could not be checked: {type(error).__name__}: {shortened(error)}")
        end.send(answer)
