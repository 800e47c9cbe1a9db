"""MLflow says how a run is: at each epoch what it has reached, each minute that it lives, and why it ended."""

from __future__ import annotations

import base64
import json
import time
import zlib
from pathlib import Path

import pytest

from tests.tracking.synced import follower, in_mlflow, start
from trainer import metrics
from trainer.tracking import Ending, Journal, sync, tracking_uri
from trainer.tracking._description import NOTE
from trainer.tracking._run_state import ENDED, LAST_SEEN, RunState
from trainer.tracking._server import connect
from trainer.tracking._view import COLUMNS, VIEW_TAG


def evaluated(journal: Journal, epoch: int, top1: float) -> None:
    journal.log(2 * epoch, {metrics.EPOCH: epoch, metrics.VAL_TOP1: top1})


def described(folder: Path) -> str:
    return in_mlflow(folder).data.tags.get(NOTE, "")


def until(condition: object, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.2)


@pytest.mark.slow
def test_the_description_follows_the_run_and_leaves_alone_what_somebody_writes_meanwhile(runs: Path) -> None:
    folder = runs / "r"
    journal = start(folder)
    with follower(folder):
        until(lambda: (folder / "mlflow.json").exists() and LAST_SEEN in in_mlflow(folder).data.tags)
        assert described(folder).startswith("in its first epoch")
        assert in_mlflow(folder).data.tags[LAST_SEEN].startswith(time.strftime("%Y-%m-%d", time.gmtime()))

        evaluated(journal, 1, 0.25)
        until(lambda: described(folder).startswith("epoch 1 of 3: top-1 25.00%"))
        evaluated(journal, 2, 0.5)
        until(lambda: described(folder).startswith("epoch 2 of 3: top-1 50.00%"))

        client = connect(tracking_uri(runs))
        client.set_tag(in_mlflow(folder).info.run_id, NOTE, "mine")
        evaluated(journal, 3, 0.75)
        until(lambda: in_mlflow(folder).data.metrics.get(metrics.VAL_TOP1) == 0.75)
        journal.finish("failed", "the disk is full")
        until(lambda: in_mlflow(folder).info.status == "FAILED")

    assert described(folder) == "mine"
    assert in_mlflow(folder).data.tags[ENDED] == "failed: the disk is full"


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_why_a_run_ended_is_in_mlflow_until_it_goes_on(runs: Path, status: Ending) -> None:
    journal = start(runs / "r")
    evaluated(journal, 1, 0.25)
    journal.finish(status, "the disk is full")
    sync(runs / "r", follow=False)

    assert in_mlflow(runs / "r").data.tags[ENDED] == f"{status}: the disk is full"
    assert described(runs / "r").startswith(f"{status}: the disk is full; epoch 1 of 3")

    start(runs / "r").finish("finished")
    sync(runs / "r", follow=False)
    assert ENDED not in in_mlflow(runs / "r").data.tags


def test_a_run_that_was_killed_says_so_and_how_to_go_on(runs: Path) -> None:
    evaluated(start(runs / "r"), 1, 0.25)

    sync(runs / "r", follow=False)

    assert in_mlflow(runs / "r").data.tags[ENDED].startswith("interrupted: the process was killed")
    assert described(runs / "r").startswith("interrupted: the process was killed")


def test_a_sign_of_life_is_sent_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []

    class Client:
        def set_tag(self, run_id: str, key: str, value: str) -> None:
            sent.append(key)

    clock = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: clock)
    state = RunState(Client(), "0123", has_ended=False)
    for _ in range(200):
        state.show_life()
        clock += 1

    assert sent == [LAST_SEEN] * 4


def test_an_experiment_has_a_view_with_the_columns_that_matter_and_one_that_somebody_changed_stays(
    runs: Path,
) -> None:
    start(runs / "r")
    sync(runs / "r", follow=False)
    client = connect(tracking_uri(runs))

    def tag() -> str:
        return client.get_experiment_by_name("photos").tags[VIEW_TAG]

    view = json.loads(tag())
    assert view["state"].startswith("deflate;")
    state = json.loads(zlib.decompress(base64.b64decode(view["state"].removeprefix("deflate;"))))
    assert state["selectedColumns"] == list(COLUMNS)
    assert len(tag()) < 1000
    client.set_experiment_tag(client.get_experiment_by_name("photos").experiment_id, VIEW_TAG, "theirs")
    start(runs / "another")
    sync(runs / "another", follow=False)
    assert tag() == "theirs"
