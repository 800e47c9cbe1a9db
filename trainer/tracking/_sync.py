"""Sync: brings MLflow up to date from the journal, again and again, without a duplicate or a gap.

What is there already is asked of MLflow itself, so nothing is lost or doubled by a kill in between.
What is sent carries the journal's own time stamps: MLflow keeps one row of a point that is sent twice.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from trainer.errors import TrackingError
from trainer.files import file_lock, follow
from trainer.tracking._child import POLL, Parent
from trainer.tracking._find_lr_link import FIND_LR_RUN, link_find_lr
from trainer.tracking._history import JOURNAL, Point, RunHistory, Tail, read_journal
from trainer.tracking._mlflow_run import RunRef, create_run, find_run, write_run_ref
from trainer.tracking._report import log_report
from trainer.tracking._run_state import ENDED, RunState
from trainer.tracking._server import check_reachable, connect, quiet, redact, run_tracking_uri, shortened
from trainer.tracking._system_metrics import SYSTEM, SystemMetrics

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

# What the run is made of, what happened, and what came out, as files; overwritten if sent again.
RUN_ARTIFACTS = (
    "recipe.json",
    "dataset.json",
    "model.txt",
    JOURNAL,
    "learning-rates.csv",
    "learning-rates.png",
)

LOCK_TIMEOUT = 5.0  # seconds that `trainer sync` waits for another process that syncs the run
LONGEST_PAUSE = 30.0  # seconds between two tries at a server that does not answer
LAST_TRIES = 3  # at a server that does not answer, once the trainer is gone
CHECKPOINTS_INTERVAL = 600.0  # seconds between two syncs of the checkpoints, 200 MB each
BATCH = 1000  # metrics MLflow takes at once; 100 of params and of tags

STATUS = {"running": "RUNNING", "finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}

_T = TypeVar("_T")

logger = logging.getLogger(__name__)


def sync(folder: Path, *, follow: bool) -> None:
    """Bring MLflow up to date with the journal of the run in `folder`.

    Args:
        folder: the run folder.
        follow: whether to go on until the journal has an end, through any outage of the server, and to add system
            metrics meanwhile. A child of `BackgroundSync` ends soon after its trainer is gone.

    Raises: TrackingError if there is no run, another process syncs it already, or MLflow cannot be
        reached (with `follow` only after the trainer is gone).
    """
    read_journal(folder)
    with _only_sync(folder, timeout=math.inf if follow else LOCK_TIMEOUT):
        if follow:
            _follow(folder)
        else:
            _once(folder)


def is_synced(folder: Path) -> bool:
    """Whether MLflow has the end of the journal in `folder`, and so all before it, for it is sent last."""
    from mlflow.exceptions import MlflowException

    history = read_journal(folder)
    try:
        with quiet():
            run = find_run(folder, connect(run_tracking_uri(folder)))
    except (MlflowException, TrackingError):
        return False
    return run is not None and (run.info.status, run.info.end_time) == (STATUS[history.status], history.ended)


def run_of(folder: Path, client: MlflowClient) -> Run:
    """The MLflow run of the run in `folder`, made now if no sync has come to it yet.

    Raises: TrackingError if another process is about to make it, and does not within a minute.
    """
    end = time.monotonic() + 60
    while True:
        if run := find_run(folder, client):
            return run
        try:
            with _only_sync(folder, timeout=1):
                _RunSync(folder, client.tracking_uri).close()
        except TrackingError:
            if time.monotonic() > end:
                raise


class _RunSync:
    """One run's sync: sends what is in the journal, less what MLflow has."""

    def __init__(self, folder: Path, uri: str) -> None:
        """Find the run in MLflow or make it, and learn what is there already."""
        self._folder = folder
        self._tail = Tail(folder)
        self._history = self._tail.read()
        self._next = 0  # position in the history's points
        self._client = connect(uri)
        run = find_run(folder, self._client) or create_run(folder, self._history, self._client)
        self.id: str = run.info.run_id
        write_run_ref(folder, RunRef(uri, run.info.experiment_id, self.id))

        self._params, self._tags = set(run.data.params), dict(run.data.tags)
        self._has_dataset = bool(run.inputs and run.inputs.dataset_inputs)
        keys = [key for key in run.data.metrics if not key.startswith(SYSTEM)]
        self._known = {
            (key, point.step) for key in keys for point in self._client.get_metric_history(self.id, key)
        }
        self._system = SystemMetrics(self._history.started)
        self._checkpoints_at = time.monotonic()  # the last sync of the checkpoints
        self._status: str = run.info.status
        self.state = RunState(self._client, self.id, ENDED in run.data.tags)

    def send(self) -> RunHistory:
        """Send what is new in the journal."""
        from mlflow.entities import Param, RunTag

        history = self._tail.read()
        if history is not self._history:
            self._history, self._next = history, 0
        if history.status == "running" and self._status != "RUNNING":
            self._client.update_run(self.id, status="RUNNING")
            self._status = "RUNNING"

        params = {key: str(value) for key, value in history.params.items() if key not in self._params}
        for some in _chunks(params.items(), 100):
            self._client.log_batch(self.id, params=[Param(key, value) for key, value in some])
        self._params.update(params)
        wanted = {**history.tags, **self.state.tags(history, history.points[self._next :])}
        tags = {key: value for key, value in wanted.items() if self._tags.get(key) != value}
        for some in _chunks(tags.items(), 100):
            self._client.log_batch(self.id, tags=[RunTag(key, value) for key, value in some])
        self._tags.update(tags)
        if range_test := tags.get(FIND_LR_RUN):
            link_find_lr(self._client, self.id, range_test)
        if not self._has_dataset:
            self._send_dataset(history)

        for points in _chunks(self._unknown(history.points[self._next :]), BATCH):
            self._send_points(points)
            self._known.update((p.key, p.step) for p in points)
        self._next = len(history.points)
        return history

    def send_sample(self) -> None:
        """Send how busy the machine is, if it is time to."""
        if points := self._system.due():
            self._send_points(points)

    def send_due_checkpoints(self) -> None:
        """Send the newest and the best checkpoint, if it is time to."""
        if time.monotonic() - self._checkpoints_at >= CHECKPOINTS_INTERVAL:
            self._send_checkpoints()

    def end(self, status: str, ended: int | None) -> None:
        """Tell MLflow how the run ended, at `ended` ms since 1970, with its checkpoints and files."""
        if self._history.status == "running":  # without a word
            self.state.show_cut_off(self._history)
        self._send_checkpoints()
        for name in RUN_ARTIFACTS:
            if (self._folder / name).exists():
                self._client.log_artifact(self.id, str(self._folder / name))
        log_report(self._folder, self._client, self.id)
        self._client.set_terminated(self.id, STATUS[status], end_time=ended)

    def close(self) -> None:
        """Close the journal."""
        self._tail.close()

    def _send_points(self, points: Sequence[Point]) -> None:
        from mlflow.entities import Metric

        self._client.log_batch(self.id, metrics=[Metric(p.key, p.value, p.time, p.step) for p in points])

    def _send_checkpoints(self) -> None:
        """Keep the newest and the best checkpoint with the run, and no others.

        Downloaded with the run's other files they make a run folder that `trainer train` goes on with. A local file
        as MLflow's store is on the same disk, and gets none.
        """
        # MLflow's client can write and list artifacts, but has no public way to delete one.
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        self._checkpoints_at = time.monotonic()
        folder = self._folder / "checkpoints"
        wanted = {path.name for path in sorted(folder.glob("step-*.pt"))[-1:]}
        best = follow(folder / "best.pt")
        if best.name != "best.pt":
            wanted.add(best.name)
        if not wanted or self._client.tracking_uri.startswith("sqlite:"):
            return
        stored = {Path(one.path).name for one in self._client.list_artifacts(self.id, folder.name)}
        for name in sorted(wanted - stored):
            with suppress(FileNotFoundError):  # a newer one has taken its place
                self._client.log_artifact(self.id, str(folder / name), folder.name)
                stored.add(name)
        if wanted <= stored:
            artifact_uri = self._client.get_run(self.id).info.artifact_uri
            artifacts = get_artifact_repository(artifact_uri, tracking_uri=self._client.tracking_uri)
            for name in stored - wanted:
                artifacts.delete_artifacts(f"{folder.name}/{name}")

    def _send_dataset(self, history: RunHistory) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        info = history.dataset
        assert info is not None
        dataset = Dataset(
            name=info.name,
            digest=info.digest[:36],  # MLflow takes no more; the tags have it all
            source_type="local",
            source=json.dumps({"uri": info.source}),
            profile=json.dumps(
                {**info.counts, **({"completeness": info.completeness} if info.completeness else {})}
            ),
        )
        context = [InputTag("mlflow.data.context", "training")]
        self._client.log_inputs(self.id, datasets=[DatasetInput(dataset, context)])
        self._has_dataset = True

    def _unknown(self, points: Sequence[Point]) -> Iterator[Point]:
        """Points that MLflow lacks and can hold; of two at the same step the first."""
        seen: set[tuple[str, int]] = set()
        for point in points:
            where = (point.key, point.step)
            if math.isfinite(point.value) and where not in self._known and where not in seen:
                seen.add(where)
                yield point


def _once(folder: Path) -> None:
    from mlflow.exceptions import MlflowException

    uri = run_tracking_uri(folder)
    check_reachable(uri)
    try:
        with quiet():
            run = _RunSync(folder, uri)
            history = run.send()
            # No other process syncs it, so none trains it: a journal without an end was cut off.
            status = "interrupted" if history.status == "running" else history.status
            last = max((point.time for point in history.points), default=history.started)
            run.end(status, history.ended or last)
            run.close()
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"{folder} could not be synced to MLflow at {redact(uri)}: {shortened(error)}; try `trainer sync` again"
        ) from None


def _follow(folder: Path) -> None:
    from mlflow.exceptions import MlflowException

    parent = Parent()
    uri = run_tracking_uri(folder)
    logger.info("syncing %s to MLflow at %s", folder, redact(uri))
    run: _RunSync | None = None
    failures = 0
    while True:
        orphaned = (
            parent.is_gone()
        )  # asked before the journal is read: what is in it then is all there will be
        try:
            with quiet():
                run = run or _RunSync(folder, uri)
                history = run.send()
                if history.status != "running":
                    run.end(history.status, history.ended)
                    logger.info("the run is %s; everything is sent", history.status)
                    return
                if orphaned:
                    run.end("interrupted", None)
                    logger.info("the trainer is gone; everything in its journal is sent")
                    return
                run.state.show_life()
                run.send_sample()
                run.send_due_checkpoints()
                # Only now: a server may take metrics, and no files.
                if failures:
                    logger.info("MLflow answers again after %d failed tries; everything is sent", failures)
                    failures = 0
        except (MlflowException, OSError) as error:
            if run:
                run.close()
            run = None  # what got through, MLflow knows
            failures += 1
            if failures & (failures - 1) == 0:
                logger.warning("try %d failed, will go on trying: %s", failures, shortened(error))
            if orphaned and failures >= LAST_TRIES:
                raise TrackingError(
                    f"the trainer is gone and MLflow at {redact(uri)} does not take everything: {shortened(error)}; "
                    f"`trainer sync {folder}` sends the rest when it does"
                ) from None
        parent.sleep(min(2.0**failures, LONGEST_PAUSE) if failures else POLL)


def _only_sync(folder: Path, timeout: float) -> AbstractContextManager[None]:
    """Be the only process that syncs this run; wait at most `timeout` seconds for another to end."""
    taken = TrackingError(
        f"{folder} is being synced to MLflow by another process already; wait for it, "
        f"its messages are in {folder / 'sync.log'}"
    )
    return file_lock(folder / "sync.lock", timeout=timeout, otherwise=taken)


def _chunks(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some
