"""What a run of MLflow says of its state: description, why it ended, and each minute that it is alive."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

from trainer import metrics
from trainer.tracking._description import NOTE, may_replace, run_description
from trainer.tracking._history import Point, RunHistory
from trainer.tracking._progress import ending, moment

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Metric

SIGN_OF_LIFE = 60.0  # seconds between two
LAST_SEEN = "last_seen"  # the tag with the last sign of life
ENDED = "ended"  # the tag that says why a run failed or was interrupted
CUT_OFF = "the process was killed, or its machine lost; the same command goes on"


class RunState:
    """The tags that change while a run goes on."""

    def __init__(self, client: MlflowClient, run_id: str, has_ended: bool) -> None:
        """Know the run.

        Args:
            client: of the MLflow that has it.
            run_id: its id.
            has_ended: whether it has the tag of an earlier end.
        """
        self._client, self._id, self._has_ended = client, run_id, has_ended
        self._described: tuple[object, ...] | None = None  # of what there is a description already
        self._seen_at = -math.inf  # the last sign of life

    def tags(self, history: RunHistory, new: Iterable[Point]) -> dict[str, str]:
        """What is to be set: the description at each evaluation, and why the run ended."""
        tags = {}
        state = (history.status, history.reason, dict(history.tags))
        if state != self._described or any(point.key == metrics.VAL_TOP1 for point in new):
            self._described = state
            # Of a run that went well it is the business of `register`, which adds the result.
            if (there := self._description()) is None or (
                history.status != "finished" and may_replace(there)
            ):
                tags[NOTE] = run_description(history)
        if why := ending(history):
            tags[ENDED], self._has_ended = why, True
        elif self._has_ended:
            self._client.delete_tag(self._id, ENDED)
            self._has_ended = False
        return tags

    def show_life(self) -> None:
        """Say each minute that the run is alive: MLflow shows one whose machine is gone as running for ever."""
        if time.monotonic() - self._seen_at >= SIGN_OF_LIFE:
            self._client.set_tag(self._id, LAST_SEEN, moment(1000 * time.time()))
            self._seen_at = time.monotonic()

    def show_cut_off(self, history: RunHistory) -> None:
        """Say that the run has ended without a word in its journal."""
        cut_off = replace(history, status="interrupted", reason=CUT_OFF)
        self._client.set_tag(self._id, ENDED, ending(cut_off))
        if may_replace(self._description()):
            self._client.set_tag(self._id, NOTE, run_description(cut_off))

    def _description(self) -> str | None:
        """As it is there now: somebody may have edited it."""
        text: str | None = self._client.get_run(self._id).data.tags.get(NOTE)
        return text


def last_evaluation(history: RunHistory, model_id: str) -> list[Metric]:
    """The run's last evaluation, as that of its model too: the same points again, of which MLflow keeps one."""
    from mlflow.entities import Metric

    dataset = history.dataset
    assert dataset is not None
    last = {
        point.key: point
        for point in history.points
        if point.key in (metrics.VAL_TOP1, metrics.VAL_TOP5, metrics.VAL_LOSS) and math.isfinite(point.value)
    }
    return [
        Metric(
            point.key,
            point.value,
            point.time,
            point.step,
            model_id=model_id,
            dataset_name=dataset.name,
            dataset_digest=dataset.digest[:36],  # as the sync names it
        )
        for point in last.values()
    ]
