"""The shipper: brings MLflow up to date from the journal, again and again, without a duplicate or a gap.

What is there already is asked of MLflow itself, so nothing is lost or doubled by a kill in between.
What is sent carries the journal's own time stamps: MLflow keeps one row of a point that is sent twice.
"""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self, TypeVar

from trainer.errors import ProcessLost, TrackingError
from trainer.files import file_lock, write_json
from trainer.tracking._journal import JOURNAL, Point, RunHistory, Tail, read_journal
from trainer.tracking._server import check_reachable, connect, place, quiet, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

RUN_FILE = "mlflow.json"
# What was asked for, of what it is made, what happened, and what came out, as files; overwritten if sent again.
RUN_ARTIFACTS = ("recipe.json", "model.txt", JOURNAL, "learning-rates.csv", "learning-rates.png")
RUN_KEY = "trainer.run_key"  # the tag that finds a run again, on any server
SYSTEM = "system/"  # MLflow shows metrics of this prefix on a page of their own

POLL = 1.0  # seconds between two looks at the journal
SAMPLE = 10.0  # seconds between two samples of the system metrics
LONGEST_PAUSE = 30.0  # seconds between two tries at a server that does not answer
LAST_TRIES = 3  # of a shipper whose trainer is gone, at a server that does not answer
CHECKPOINTS_SECONDS = 600.0  # seconds between two looks at the checkpoints, 200 MB each
BATCH = 1000  # metrics MLflow takes at once; 100 of params and of tags

STATUS = {"running": "RUNNING", "finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}

_T = TypeVar("_T")


class RunRef(NamedTuple):
    """Which run of which MLflow a run folder's journal is shipped to."""

    tracking_uri: str
    experiment_id: str
    run_id: str


def read_run_ref(folder: Path) -> RunRef | None:
    """Where the run in `folder` was shipped to last; None if it never was."""
    try:
        return RunRef(**json.loads((folder / RUN_FILE).read_text()))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def sync(folder: Path, *, follow: bool) -> None:
    """Bring MLflow up to date with the journal of the run in `folder`.

    Args:
        folder: the run folder.
        follow: go on until the journal has an end, through any outage of the server, and add system
            metrics meanwhile. A child of `BackgroundSync` ends soon after its trainer is gone.

    Raises: TrackingError if there is no run, another process ships it already, or MLflow cannot be
        reached (with `follow` only after the trainer is gone).
    """
    read_journal(folder)
    with _alone(folder, timeout=math.inf if follow else 5.0):
        if follow:
            _follow(folder)
        else:
            _once(folder)


_ALONE: list[subprocess.Popen[bytes] | None] = []  # kept, for Python warns of children that nobody waits for


class BackgroundSync:
    """A child process that ships the run in `folder` to MLflow while it is trained.

        with BackgroundSync(folder) as shipper:   # after Journal.start
            ...                            # train; Journal.finish
            shipped = shipper.wait(60)     # False: `trainer sync` does the rest later

    The trainer itself never waits for a server. The child writes to `sync.log` in the run folder,
    survives a ^C on the terminal, and ends by itself soon after the trainer, whichever way that ends.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._child: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        if read_journal(self._folder).status != "running":
            raise ValueError("call Journal.start before BackgroundSync is entered")
        # One thread is enough to send numbers, and none of the trainer's ranks is meant by this.
        ranks = {"RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
        env = {name: value for name, value in os.environ.items() if name not in ranks}
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        with (self._folder / "sync.log").open("ab") as log:
            self._child = subprocess.Popen(
                [sys.executable, "-m", "trainer", "sync", str(self._folder), "--follow"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**env, **threads, "TRAINER_PARENT": str(os.getpid())},
            )
        return self

    def wait(self, seconds: float) -> bool:
        """Wait at most `seconds` for the end of shipping: whether everything is in MLflow."""
        assert self._child is not None
        try:
            return self._child.wait(seconds) == 0
        except subprocess.TimeoutExpired:
            return False

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, ProcessLost):
            return  # all processes are about to be started again, with another shipper
        if read_journal(self._folder).status != "running" and not self.wait(10):
            _ALONE.append(self._child)  # it goes on alone, for as long as MLflow answers


def run_in_mlflow(folder: Path, client: MlflowClient, uri: str) -> Run | None:
    """The MLflow run of the run in `folder`; None if there is none at `uri`."""
    from mlflow.exceptions import MlflowException

    known = read_run_ref(folder)
    if known and known.tracking_uri == uri:
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


def run_of(folder: Path, client: MlflowClient, uri: str) -> Run:
    """The MLflow run of the run in `folder`, made now if no shipper has come to it yet.

    Raises: TrackingError if another process is about to make it, and does not within a minute.
    """
    end = time.monotonic() + 60
    while True:
        if run := run_in_mlflow(folder, client, uri):
            return run
        try:
            with _alone(folder, timeout=1):
                _RunSync(folder, uri).close()
        except TrackingError:
            if time.monotonic() > end:
                raise


class _RunSync:
    """One run's way into MLflow: what the journal tells, less what MLflow knows."""

    def __init__(self, folder: Path, uri: str) -> None:
        """Find the run in MLflow or make it, and learn what is there already."""
        from mlflow.entities import RunStatus

        self._folder = folder
        self._tail = Tail(folder)
        self._history = self._tail.read()
        self._next = 0  # position in the history's points
        self._client = connect(uri)
        run = run_in_mlflow(folder, self._client, uri) or self._create(folder, uri)
        self.id: str = run.info.run_id
        _write_run_ref(folder, RunRef(uri, run.info.experiment_id, self.id))

        self._params, self._tags = set(run.data.params), dict(run.data.tags)
        self._dataset_known = bool(run.inputs and run.inputs.dataset_inputs)
        keys = [key for key in run.data.metrics if not key.startswith(SYSTEM)]
        self._known = {
            (key, point.step) for key in keys for point in self._client.get_metric_history(self.id, key)
        }
        self._system = _SystemMetrics(
            1 + max((m.step for m in run.data._metric_objs if m.key.startswith(SYSTEM)), default=-1)
        )
        self.checkpoints_at = time.monotonic()  # the last time they were looked at
        self._status = RunStatus.to_string(RunStatus.from_string(run.info.status))

    def ship(self) -> RunHistory:
        """Send what is new in the journal."""
        from mlflow.entities import Metric, Param, RunTag

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
        tags = {key: value for key, value in history.tags.items() if self._tags.get(key) != value}
        for some in _chunks(tags.items(), 100):
            self._client.log_batch(self.id, tags=[RunTag(key, value) for key, value in some])
        self._tags.update(tags)
        if not self._dataset_known:
            self._ship_dataset(history)

        for points in _chunks(self._unknown(history.points[self._next :]), BATCH):
            self._client.log_batch(self.id, metrics=[Metric(p.key, p.value, p.time, p.step) for p in points])
            self._known.update((p.key, p.step) for p in points)
        self._next = len(history.points)
        return history

    def sample(self) -> None:
        """Send how busy the machine is, if it is time to."""
        from mlflow.entities import Metric

        if points := self._system.due():
            self._client.log_batch(self.id, metrics=[Metric(p.key, p.value, p.time, p.step) for p in points])

    def ship_checkpoints(self) -> None:
        """Keep the newest and the best checkpoint with the run, and no others.

        Downloaded with the papers they make a run folder that `trainer train` goes on with. A local file
        as MLflow's store is on the same disk, and gets none.
        """
        from mlflow.store.artifact.artifact_repository_registry import get_artifact_repository

        self.checkpoints_at = time.monotonic()
        folder = self._folder / "checkpoints"
        wanted = {path.name for path in sorted(folder.glob("step-*.pt"))[-1:]}
        with suppress(OSError):  # nothing was evaluated yet
            wanted.add(os.readlink(folder / "best.pt"))
        if not wanted or self._client.tracking_uri.startswith("sqlite:"):
            return
        there = {Path(one.path).name for one in self._client.list_artifacts(self.id, folder.name)}
        for name in sorted(wanted - there):
            with suppress(FileNotFoundError):  # a newer one has taken its place
                self._client.log_artifact(self.id, str(folder / name), folder.name)
                there.add(name)
        if wanted <= there:
            where = self._client.get_run(self.id).info.artifact_uri
            kept = get_artifact_repository(where, tracking_uri=self._client.tracking_uri)
            for name in there - wanted:
                kept.delete_artifacts(f"{folder.name}/{name}")

    def end(self, status: str, ended: int | None) -> None:
        """Tell MLflow how the run ended, at `ended` ms since 1970, and leave it the run's own papers."""
        self.ship_checkpoints()
        for paper in RUN_ARTIFACTS:
            if (self._folder / paper).exists():
                self._client.log_artifact(self.id, str(self._folder / paper))
        self._client.set_terminated(self.id, STATUS[status], end_time=ended)

    def close(self) -> None:
        """Let go of the journal."""
        self._tail.close()

    def _create(self, folder: Path, uri: str) -> Run:
        history = self._history
        experiment = self._experiment(folder, uri)
        self._client.create_run(
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
        same = self._client.search_runs([experiment], f"tags.`{RUN_KEY}` = '{history.key}'")
        first, *others = sorted(same, key=lambda run: str(run.info.run_id))
        for run in others:
            self._client.delete_run(run.info.run_id)
        return first

    def _experiment(self, folder: Path, uri: str) -> str:
        from mlflow.exceptions import MlflowException

        name = self._history.experiment
        experiment = self._client.get_experiment_by_name(name)
        if experiment is None:
            beside = folder.resolve().parent / "artifacts" / name
            try:
                return self._client.create_experiment(
                    name,
                    artifact_location=beside.as_uri() if uri.startswith("sqlite:") else None,
                    # Without it, the UI opens on its pages for language models and hides the runs.
                    tags={"mlflow.experimentKind": "custom_model_development"},
                )
            except MlflowException as error:
                if error.error_code != "RESOURCE_ALREADY_EXISTS":
                    raise
                experiment = self._client.get_experiment_by_name(name)
                assert experiment is not None
        if experiment.lifecycle_stage == "deleted":
            _say(f"experiment {name} was deleted in MLflow; it is restored, for the name is taken")
            self._client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)

    def _ship_dataset(self, history: RunHistory) -> None:
        from mlflow.entities import Dataset, DatasetInput, InputTag

        facts = history.dataset
        assert facts is not None
        dataset = Dataset(
            name=facts.name,
            digest=facts.digest[:36],  # MLflow takes no more; the tags have it all
            source_type="local",
            source=json.dumps({"uri": facts.source}),
            profile=json.dumps(dict(facts.counts)),
        )
        context = [InputTag("mlflow.data.context", "training")]
        self._client.log_inputs(self.id, datasets=[DatasetInput(dataset, context)])
        self._dataset_known = True

    def _unknown(self, points: Sequence[Point]) -> Iterator[Point]:
        """Points that MLflow lacks and can hold; of two at the same step the first."""
        seen: set[tuple[str, int]] = set()
        for point in points:
            where = (point.key, point.step)
            if math.isfinite(point.value) and where not in self._known and where not in seen:
                seen.add(where)
                yield point


class _SystemMetrics:
    """Load of CPU, memory, disk, network and GPUs, as MLflow's own monitors read it.

    MLflow's SystemMetricsMonitor, the thread around these, ends at the first failed request and
    counts another way after it; here a sample that cannot be sent is lost and nothing else.
    """

    def __init__(self, step: int) -> None:
        from mlflow.system_metrics.metrics.cpu_monitor import CPUMonitor
        from mlflow.system_metrics.metrics.disk_monitor import DiskMonitor
        from mlflow.system_metrics.metrics.gpu_monitor import GPUMonitor
        from mlflow.system_metrics.metrics.network_monitor import NetworkMonitor

        self._monitors = [CPUMonitor(), DiskMonitor(), NetworkMonitor()]
        with suppress(Exception):  # there is no GPU; MLflow has no narrower way to say so
            self._monitors.append(GPUMonitor())
        self._step, self._next = step, 0.0

    def due(self) -> list[Point]:
        """A sample, every 10 s; else nothing."""
        if time.monotonic() < self._next:
            return []
        self._next = time.monotonic() + SAMPLE
        now, points = int(time.time() * 1000), []
        for monitor in self._monitors:
            monitor.collect_metrics()
            for name, value in monitor.aggregate_metrics().items():
                points.append(Point(SYSTEM + name, self._step, value, now))
            monitor.clear_metrics()
        self._step += 1
        return points


def _once(folder: Path) -> None:
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(folder.resolve().parent)
    check_reachable(uri)
    try:
        with quiet():
            shipment = _RunSync(folder, uri)
            history = shipment.ship()
            # Nobody else ships it, so nobody trains it: a journal without an end was cut off.
            status = "interrupted" if history.status == "running" else history.status
            shipment.end(status, history.ended or _last_time(history))
            shipment.close()
    except MlflowException as error:
        raise TrackingError(
            f"{folder} could not be brought to MLflow at {place(uri)}: {error}; try `trainer sync` again"
        ) from None


def _follow(folder: Path) -> None:
    from mlflow.exceptions import MlflowException

    parent = os.environ.get("TRAINER_PARENT")
    if parent:
        # Whoever signals a whole job means the trainer; this process ends after it.
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, signal.SIG_IGN)
        os.nice(5)  # the trainer's data loading comes first
    uri = tracking_uri(folder.resolve().parent)
    _say(f"shipping {folder} to MLflow at {place(uri)}")
    shipment: _RunSync | None = None
    failures = 0
    while True:
        orphaned = bool(parent) and os.getppid() != int(parent or 0)
        try:
            with quiet():
                shipment = shipment or _RunSync(folder, uri)
                history = shipment.ship()
                if failures:
                    _say(f"MLflow answers again after {failures} failed tries; everything is shipped")
                    failures = 0
                if history.status != "running":
                    shipment.end(history.status, history.ended)
                    _say(f"the run is {history.status}; everything is shipped")
                    return
                if orphaned:
                    shipment.end("interrupted", None)
                    _say("the trainer is gone; everything it noted is shipped")
                    return
                shipment.sample()
                if time.monotonic() - shipment.checkpoints_at >= CHECKPOINTS_SECONDS:
                    shipment.ship_checkpoints()
        except (MlflowException, OSError) as error:
            if shipment:
                shipment.close()
            shipment = None  # what got through, MLflow knows
            failures += 1
            if failures & (failures - 1) == 0:
                _say(f"try {failures} failed, will go on trying: {' '.join(str(error).split())[:300]}")
            if orphaned and failures >= LAST_TRIES:
                raise TrackingError(
                    f"the trainer is gone and MLflow at {place(uri)} does not answer; "
                    f"`trainer sync {folder}` ships the rest when it does"
                ) from None
        _pause(min(2.0**failures, LONGEST_PAUSE) if failures else POLL, parent if not orphaned else None)


def _pause(seconds: float, parent: str | None) -> None:
    """Sleep, but no longer than the parent lives."""
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0 and (not parent or os.getppid() == int(parent)):
        time.sleep(min(left, POLL))


def _alone(folder: Path, timeout: float) -> AbstractContextManager[None]:
    """Be the only shipper of this run; wait at most `timeout` seconds for another to end."""
    taken = TrackingError(
        f"{folder} is being shipped to MLflow by another process already; wait for it, "
        f"its words are in {folder / 'sync.log'}"
    )
    return file_lock(folder / "sync.lock", timeout=timeout, otherwise=taken)


def _write_run_ref(folder: Path, where: RunRef) -> None:
    if read_run_ref(folder) != where:
        write_json(folder / RUN_FILE, where._asdict())


def _chunks(items: Iterable[_T], size: int) -> Iterator[list[_T]]:
    rest = iter(items)
    while some := list(islice(rest, size)):
        yield some


def _last_time(history: RunHistory) -> int:
    return max((point.time for point in history.points), default=history.started)


def _say(text: str) -> None:
    print(time.strftime("%Y-%m-%d %H:%M:%S"), text, flush=True)
