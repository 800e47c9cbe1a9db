"""A run and the range test whose learning rate it trains with, linked in MLflow both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.tracking._description import NOTE, may_replace, with_paragraph
from trainer.tracking._mlflow_run import TRAINING_MODE

if TYPE_CHECKING:
    from mlflow import MlflowClient

FIND_LR_RUN = "find_lr_run"  # tag of a run: MLflow's id of the range test
FIND_LR_NAME = "find_lr_name"  # tag of a run: its folder's name
USED_BY = "used_by."  # tag of a range test, with the run's id behind it: the run's name


def link_find_lr(client: MlflowClient, run_id: str, find_lr_run: str) -> None:
    """Tell the range test which run uses it, by a tag, and by a link in its description unless somebody edited that."""
    from mlflow.exceptions import MlflowException

    try:
        test = client.get_run(find_lr_run)
    except MlflowException as error:  # it was deleted, or is on another server
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return
    run = client.get_run(run_id)
    client.set_tag(find_lr_run, USED_BY + run_id, run.info.run_name)
    text = test.data.tags.get(NOTE, "")
    if text and may_replace(text):
        link = run_link(run.info.run_name or run_id, run.info.experiment_id, run_id)
        client.set_tag(find_lr_run, NOTE, with_paragraph(text, f"Its learning rate is used by {link}."))


def run_link(name: str, experiment_id: str, run_id: str) -> str:
    """A link to a run in a description, by its address within MLflow's UI, wherever that is."""
    return f"[{name}](#/experiments/{experiment_id}/runs/{run_id}?{TRAINING_MODE})"
