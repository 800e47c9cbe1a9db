"""Where a model comes from: its run as the run folder tells it, or MLflow where that folder is elsewhere."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import TrackingError
from trainer.tracking._history import DatasetInfo, RunHistory, read_journal
from trainer.tracking._load_model import LoadedModel
from trainer.tracking._mlflow_run import read_run_ref
from trainer.tracking._registry import Registered, run_folder_of
from trainer.tracking._server import connect, quiet, redact, shortened, tracking_uri

if TYPE_CHECKING:
    from mlflow.entities import Run


@dataclass(frozen=True)
class Origin:
    """The run that made a model."""

    run: Path | None  # its folder, if it is here
    history: (
        RunHistory  # settings, tags and data set; no more than that where it comes from MLflow, or nothing
    )


def origin_of(model: LoadedModel, runs: Path) -> Origin:
    """The run that made `model`.

    Args:
        model: a model that was loaded.
        runs: folder of one's own runs, and of MLflow's SQLite store where MLFLOW_TRACKING_URI names no server.

    Raises: TrackingError if MLflow does not give its run.
    """
    if model.registered is None:
        folder = Path(model.source).resolve().parent.parent  # RUN/checkpoints/step-….pt
        history = read_journal(folder, empty=True)
        return Origin(folder if history.key else None, history)
    if folder_here := run_folder_of(runs, model.registered):
        return Origin(folder_here, read_journal(folder_here, empty=True))
    return Origin(None, _of_mlflow(model.registered, runs))


def run_that_made(model: LoadedModel, runs: Path) -> tuple[str, str] | None:
    """Id of the run that made `model` on the MLflow in use, and the name of its experiment; None if it has none there.

    Raises: TrackingError if MLflow does not give the run of a registered version.
    """
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(runs)
    if model.registered is None:
        folder = Path(model.source).resolve().parent.parent
        ref = read_run_ref(folder)
        if ref is None or ref.tracking_uri != redact(uri):
            return None
        return ref.run_id, read_journal(folder, empty=True).experiment
    if not model.registered.run_id:
        return None
    try:
        with quiet():
            client = connect(uri)
            experiment = client.get_run(model.registered.run_id).info.experiment_id
            return model.registered.run_id, str(client.get_experiment(experiment).name)
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"the run of {model.registered.uri} could not be read from MLflow at {redact(uri)}: {shortened(error)}"
        ) from None


def _of_mlflow(registered: Registered, runs: Path) -> RunHistory:
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(runs)
    if not registered.run_id:
        return RunHistory()
    try:
        with quiet():
            run = connect(uri).get_run(registered.run_id)
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"the run of {registered.uri} could not be read from MLflow at {redact(uri)}: {shortened(error)}"
        ) from None
    tags = {key: value for key, value in run.data.tags.items() if not key.startswith("mlflow.")}
    return RunHistory(params=dict(run.data.params), tags=tags, dataset=dataset_of(run))


def dataset_of(run: Run) -> DatasetInfo | None:
    """The data set as `trainer sync` has sent it."""
    inputs = run.inputs.dataset_inputs if run.inputs else []
    if not inputs:
        return None
    sent = inputs[0].dataset
    try:
        profile = json.loads(sent.profile or "{}").items()
        counts = {str(name): count for name, count in profile if isinstance(count, int)}
    except (ValueError, TypeError, AttributeError):  # somebody else has written it
        counts = {}
    return DatasetInfo(sent.name, run.data.tags.get("dataset_digest", sent.digest), "", counts)
