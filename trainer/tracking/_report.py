"""The report of a run in MLflow: its files as artifacts, and the link to it in what describes the run and its model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import TrackingError
from trainer.tracking._description import NOTE, may_replace, with_report
from trainer.tracking._mlflow_run import TRAINING_MODE, find_run
from trainer.tracking._server import check_reachable, connect, quiet, redact, run_tracking_uri, shortened

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

REPORT, REPORT_PAGE = (
    "report",
    "report.html",
)  # the folder in the run folder and among the artifacts, and in it


def send_report(folder: Path) -> None:
    """Send the report of the run in `folder`, and link it from run and version unless somebody has edited these.

    Raises: TrackingError if MLflow does not take it; `sync` and `register` do the same.
    """
    from mlflow.exceptions import MlflowException

    uri = run_tracking_uri(folder)
    try:
        check_reachable(uri)
        with quiet():
            client = connect(uri)
            run = find_run(folder, client)
            if run is None:
                raise TrackingError(
                    f"{folder} is not in MLflow yet; `trainer sync {folder}` sends it with its report"
                )
            log_report(folder, client, run.info.run_id)
            if may_replace(text := run.data.tags.get(NOTE)) and text:
                client.set_tag(run.info.run_id, NOTE, with_report_of(folder, run, text))
            for version in client.search_model_versions(f"run_id='{run.info.run_id}'"):
                if may_replace(text := version.description) and text:
                    client.update_model_version(
                        version.name, version.version, with_report_of(folder, run, text)
                    )
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"the report of {folder} could not be sent to MLflow at {redact(uri)}: {shortened(error)}; "
            f"`trainer sync {folder}` tries again"
        ) from None


def log_report(folder: Path, client: MlflowClient, run_id: str) -> None:
    """Send the files of the report if there is one, over those of an earlier one."""
    if (folder / REPORT / REPORT_PAGE).exists():
        client.log_artifacts(run_id, str(folder / REPORT), REPORT)


def with_report_of(folder: Path, run: Run, description: str) -> str:
    """The description with the run's report if it has one; addresses within MLflow's UI, wherever that is."""
    if not (folder / REPORT / REPORT_PAGE).exists():
        return description
    id = run.info.run_id
    return with_report(
        description,
        f"#/experiments/{run.info.experiment_id}/runs/{id}/artifacts/{REPORT}/{REPORT_PAGE}?{TRAINING_MODE}",
        f"get-artifact?path={REPORT}%2Fthumbnail.png&run_uuid={id}",
    )
