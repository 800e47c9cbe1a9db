"""Runs as MLflow has them, for whoever has not their folders."""

from __future__ import annotations

import ast
from contextlib import suppress
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from trainer import metrics
from trainer.errors import TrackingError
from trainer.tracking._history import Point, RunHistory, Status
from trainer.tracking._origin import dataset_of
from trainer.tracking._server import (
    check_reachable,
    connect,
    database_of,
    quiet,
    redact,
    shortened,
    tracking_uri,
)
from trainer.tracking._sync import STATUS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# What is compared of a run; others are not asked for.
KEYS = (
    metrics.VAL_TOP1,
    metrics.VAL_TOP5,
    metrics.VAL_LOSS,
    metrics.TRAIN_LOSS,
    metrics.TRAIN_TOP1,
    metrics.TRAIN_TOP5,
    metrics.LR,
    metrics.THROUGHPUT,
    metrics.DATA_WAIT,
    metrics.EVALUATION_SECONDS,
)
VAL_DIGEST = "val_digest"  # tag of a run, as of a version


def remote_histories(pattern: str, *, runs: Path) -> list[RunHistory]:
    """The trainings in MLflow that `pattern` names, in the order of their start.

    Args:
        pattern: a run's id, `runs:/ID`, its name, or a pattern for names with *, ? and [].
        runs: folder of MLflow's SQLite store, where MLFLOW_TRACKING_URI names no server.

    Raises: TrackingError if MLflow does not answer.
    """
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(runs)
    if (database := database_of(uri)) and not database.exists():
        return []
    check_reachable(uri)
    try:
        with quiet():
            client = connect(uri)
            return [_history(client, run) for run in _named(client, pattern)]
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"{pattern} could not be read from MLflow at {redact(uri)}: {shortened(error)}"
        ) from None


def _named(client: MlflowClient, pattern: str) -> list[Run]:
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException):  # most are no ids
        return [client.get_run(pattern.removeprefix("runs:/"))]
    experiments = [one.experiment_id for one in client.search_experiments()]
    found: list[Run] = []
    token: str | None = ""
    while token is not None:
        page = client.search_runs(experiments, "tags.`trainer.run_key` != ''", page_token=token or None)
        found += [run for run in page if fnmatchcase(run.info.run_name or "", pattern)]
        token = page.token or None
    return sorted(found, key=lambda run: int(run.info.start_time))


def _history(client: MlflowClient, run: Run) -> RunHistory:
    points: list[Point] = []
    for key in KEYS:
        if key in run.data.metrics:
            logged = client.get_metric_history(run.info.run_id, key)
            points += [Point(key, one.step, one.value, one.timestamp) for one in logged]
    status = {words: ours for ours, words in STATUS.items()}.get(run.info.status, "running")
    tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
    dataset = dataset_of(run)
    return RunHistory(
        key=tags.get("trainer.run_key", run.info.run_id),
        name=run.info.run_name or run.info.run_id,
        started=run.info.start_time,
        status=cast("Status", status),
        params={key: _typed(value) for key, value in run.data.params.items()},
        tags=tags,
        dataset=replace(dataset, val_digest=tags.get(VAL_DIGEST, "")) if dataset else None,
        points=sorted(points, key=lambda point: point.time),
    )


def _typed(text: str) -> Any:
    """The setting that was sent as `str(setting)`."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
