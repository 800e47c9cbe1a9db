"""Which run of MLflow a run folder is: found again by its key on any server, or made; and its address in the UI."""

from __future__ import annotations

import logging
import os
import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from trainer.errors import TrackingError
from trainer.files import read_json, write_json
from trainer.tracking._history import RunHistory, read_journal
from trainer.tracking._server import check_reachable, connect, quiet, redact, run_tracking_uri
from trainer.tracking._view import VIEW_KEY, VIEW_TAG, saved_view

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUN_FILE = "mlflow.json"
LOCAL = "http://127.0.0.1:5000"  # where `mlflow ui` serves, if it is not told otherwise
TRAINING_MODE = "workflowType=machine_learning"
PARENT_RUN = "mlflow.parentRunId"  # the tag by which MLflow's UI shows a run below another and links it
RUN_KEY = "trainer.run_key"  # the tag that finds a run again, on any server

logger = logging.getLogger(__name__)


class RunRef(NamedTuple):
    """The MLflow run that a run folder is synced to."""

    tracking_uri: str  # redacted
    experiment_id: str
    run_id: str


def read_run_ref(folder: Path) -> RunRef | None:
    """The MLflow run that the run in `folder` was synced to last; None if it never was."""
    try:
        return RunRef(**read_json(folder / RUN_FILE))
    except (OSError, ValueError, TypeError):
        return None


def write_run_ref(folder: Path, ref: RunRef) -> None:
    """Keep the MLflow run that the run in `folder` is synced to; of its address not the password."""
    ref = ref._replace(tracking_uri=redact(ref.tracking_uri))
    if read_run_ref(folder) != ref:
        write_json(folder / RUN_FILE, ref._asdict())


def run_url(ref: RunRef) -> str | None:
    """Address of the run's charts in MLflow's UI, in its mode for model training; None if no server is behind it.

    MLFLOW_PUBLIC_URL is the server's address for a browser, where that is another one, as in Compose.
    Without `workflowType` the UI opens in the mode that the browser was in last, at first the one for language models.
    """
    if not ref.tracking_uri.startswith(("http://", "https://")):
        return None
    return f"{_public(ref)}{_charts(ref)}"


def local_url(ref: RunRef) -> str:
    """The same of a run in a local store, where `mlflow ui` serves that."""
    return f"{LOCAL}{_charts(ref)}"


def runs_url(ref: RunRef) -> str | None:
    """Address of the list of all runs beside it, with the columns of `saved_view`; None if there is no server."""
    if not ref.tracking_uri.startswith(("http://", "https://")):
        return None
    return (
        f"{_public(ref)}/#/experiments/{ref.experiment_id}/runs?viewStateShareKey={VIEW_KEY}&{TRAINING_MODE}"
    )


def _charts(ref: RunRef) -> str:
    return f"/#/experiments/{ref.experiment_id}/runs/{ref.run_id}/model-metrics?{TRAINING_MODE}"


def _public(ref: RunRef) -> str:
    public = os.environ.get("MLFLOW_PUBLIC_URL", "").partition("#")[0]  # as of a page that was open
    return redact(public if public.startswith(("http://", "https://")) else ref.tracking_uri).rstrip("/")


def find_run(folder: Path, client: MlflowClient) -> Run | None:
    """The MLflow run of the run in `folder`; None if the client's server has none."""
    from mlflow.exceptions import MlflowException

    known = read_run_ref(folder)
    if known and known.tracking_uri == redact(client.tracking_uri):
        try:
            run = client.get_run(known.run_id)
            if run.info.lifecycle_stage == "active":
                return run
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
    history = read_journal(folder)
    experiment = client.get_experiment_by_name(history.experiment)
    if experiment is None:
        return None
    same = client.search_runs([experiment.experiment_id], f"tags.`{RUN_KEY}` = '{history.key}'")
    return min(same, key=lambda run: str(run.info.run_id), default=None)


def tag_run(folder: Path, name: str, value: str) -> None:
    """Tag the MLflow run of the run in `folder`, if there is one and its server answers: nothing depends on it."""
    if read_run_ref(folder) is None:
        return
    from mlflow.exceptions import MlflowException

    with suppress(MlflowException, TrackingError, OSError), quiet():
        uri = run_tracking_uri(folder)
        check_reachable(uri)
        client = connect(uri)
        if run := find_run(folder, client):
            client.set_tag(run.info.run_id, name, value)


def create_run(folder: Path, history: RunHistory, client: MlflowClient) -> Run:
    """Make the MLflow run of the run in `folder`, and its experiment if there is none."""
    experiment = find_or_make_experiment(folder, history.experiment, client)
    client.create_run(
        experiment,
        start_time=history.started,
        run_name=history.name,
        tags={
            RUN_KEY: history.key,
            "mlflow.source.name": "trainer",
            "mlflow.source.type": "LOCAL",
            "mlflow.user": os.environ.get("USER", "trainer"),
        },
    )
    # A request whose answer got lost is sent again by the client, and then there are two.
    same = client.search_runs([experiment], f"tags.`{RUN_KEY}` = '{history.key}'")
    first, *others = sorted(same, key=lambda run: str(run.info.run_id))
    for run in others:
        client.delete_run(run.info.run_id)
    return first


def find_or_make_experiment(folder: Path, name: str, client: MlflowClient) -> str:
    """Id of the experiment `name`; a local store keeps its artifacts beside the run folder `folder`."""
    from mlflow.exceptions import MlflowException

    experiment = client.get_experiment_by_name(name)
    if experiment is None:
        local = client.tracking_uri.startswith("sqlite:")
        # An experiment may have any name, and this is a folder.
        artifacts = Path(os.path.abspath(folder)).parent / "artifacts" / re.sub(r"[/\\\0]|^\.+$", "_", name)
        try:
            return client.create_experiment(
                name,
                artifact_location=artifacts.as_uri() if local else None,
                # Without the first, the UI opens on its pages for language models and hides the runs.
                tags={"mlflow.experimentKind": "custom_model_development", VIEW_TAG: saved_view()},
            )
        except MlflowException as error:
            if error.error_code != "RESOURCE_ALREADY_EXISTS":
                raise
            experiment = client.get_experiment_by_name(name)
            assert experiment is not None
    if experiment.lifecycle_stage == "deleted":
        logger.warning("experiment %s was deleted in MLflow; it is restored, for the name is taken", name)
        client.restore_experiment(experiment.experiment_id)
    if VIEW_TAG not in experiment.tags:  # as of an earlier version; one that somebody has changed stays
        client.set_experiment_tag(experiment.experiment_id, VIEW_TAG, saved_view())
    return str(experiment.experiment_id)
