"""The report of a run in MLflow: its files as artifacts, and the link to it in the run's description."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

from trainer.errors import TrackingError
from trainer.tracking._description import NOTE, may_replace, with_item
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
    """Send the report of the run in `folder`, and link it from the run's description unless somebody has edited that.

    Raises: TrackingError if MLflow does not take it; `sync` sends it as well.
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
            described = client.get_run(run.info.run_id).data.tags.get(NOTE)
            if described and may_replace(described):
                client.set_tag(run.info.run_id, NOTE, with_report(described, folder, run))
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"the report of {folder} could not be sent to MLflow at {redact(uri)}: {shortened(error)}; "
            f"`trainer sync {folder}` tries again"
        ) from None


def log_report(folder: Path, client: MlflowClient, run_id: str) -> None:
    """Send the files of the report if there is one, over those of an earlier one."""
    if (folder / REPORT / REPORT_PAGE).exists():
        client.log_artifacts(run_id, str(folder / REPORT), REPORT)


def with_report(description: str, folder: Path, run: Run) -> str:
    """The description of a run, with the address of its report if it has one: within MLflow's UI, wherever that is."""
    if not (folder / REPORT / REPORT_PAGE).exists():
        return description
    page = f"experiments/{run.info.experiment_id}/runs/{run.info.run_id}/artifacts/{REPORT}/{REPORT_PAGE}"
    thumbnail = f"get-artifact?path={quote(REPORT, safe='')}%2Fcurves.png&run_uuid={run.info.run_id}"
    link = f"[{REPORT_PAGE}](#/{page}?{TRAINING_MODE}) \n\n![curves]({thumbnail})"
    return with_item(description, "Report", link)
