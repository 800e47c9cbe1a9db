"""One run through everything that can fail around it: it ends as one run, with every metric once."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import until as wait_until
from tests.stack.conftest import MARKS, Stack, no_engine
from trainer import metrics
from trainer.tracking import read_journal

pytestmark = MARKS

# Some steps a second, for longer than all tests here take.
COMMAND = (
    "train digits --data /data --runs /runs --device cpu --checkpoint-interval 15 --set model=unhurried:Unhurried "
    "--set epochs=200 --set log_every=1 --set global_batch=8"
)
NETWORK = f"{Path(__file__).with_name('unhurried.py')}:/app/unhurried.py:ro"
OUTAGE = 30.0  # seconds
ACTIVE = "WHERE lifecycle_stage = 'active'"  # each start leaves the run of its check in MLflow's trash
SLOW = 20.0  # seconds that no step takes here, whatever else this machine does


def override(folder: Path) -> str:
    """A Compose file that trains with COMMAND; JSON is YAML."""
    path = folder / "compose.faults.yaml"
    path.write_text(json.dumps({"services": {"trainer": {"command": COMMAND, "volumes": [NETWORK]}}}))
    return str(path)


def with_files(stack: Stack, *files: str) -> Stack:
    """The same project, with more Compose files."""
    return replace(stack, files=(*stack.files, *files))


until = partial(wait_until, seconds=300, every=0.2)


class Run:
    """The run that all faults befall, seen from outside."""

    def __init__(self, stack: Stack, runs: Path) -> None:
        self.stack, self._runs = stack, runs

    @property
    def folder(self) -> Path:
        (only,) = self._runs.glob("digits-*")
        return only

    def losses(self) -> list[tuple[int, int]]:
        """Step and time (ms) of each step up to now."""
        points = read_journal(self.folder, empty=True).points if any(self._runs.glob("digits-*")) else []
        return [(point.step, point.time) for point in points if point.key == metrics.TRAIN_LOSS]

    def goes_on(self, steps: int = 3) -> None:
        """Wait until some more steps are done."""
        now = max((time for _, time in self.losses()), default=0)
        until(lambda: sum(time > now for _, time in self.losses()) >= steps)

    def longest_step(self, since: float) -> float:
        """Seconds between two steps of an epoch since `since` (seconds since 1970)."""
        times = [at / 1000 for _, at in self.losses() if at / 1000 >= since]
        assert len(times) > 5
        return max(later - earlier for earlier, later in itertools.pairwise(times))

    def state(self) -> dict[str, Any]:
        return self.stack.containers()["trainer"]["State"]

    def docker(self, *arguments: str) -> None:
        subprocess.run(["docker", *arguments], check=True, capture_output=True)

    def container(self, service: str = "trainer") -> str:
        return str(self.stack.containers()[service]["Id"])


@pytest.fixture(scope="module")
def run(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("faults")
    runs = folder / "runs"
    runs.mkdir()
    runs.chmod(0o777)  # the container's user is another
    own = with_files(stack.sibling("faults", folder, RUNS_DIR=runs), override(folder))
    run = Run(own, runs)
    try:
        own.compose("up", "--detach", "trainer")
        run.goes_on()
        yield run
    finally:
        own.down()


def mlflow_has_each_point_once(run: Run) -> None:
    """What Postgres holds of the run is what the journal tells, each once."""
    history = read_journal(run.folder)
    (run_id,) = run.stack.sql(
        f"SELECT run_uuid FROM tags WHERE key = 'trainer.run_key' AND value = '{history.key}'"
    )
    rows = run.stack.sql(
        f"SELECT key, step FROM metrics WHERE run_uuid = '{run_id}' AND key NOT LIKE 'system/%'"
    )
    stored = sorted(tuple(row.split("|")) for row in rows)
    assert len(stored) == len(set(stored))
    assert set(stored) >= {(point.key, str(point.step)) for point in history.points}
    assert run.stack.sql(f"SELECT count(*) FROM runs {ACTIVE}") == ["1"]


def test_mlflow_killed_for_half_a_minute_is_not_noticed_by_the_loop(run: Run) -> None:
    since = time.time()
    run.docker("kill", run.container("mlflow"))
    time.sleep(OUTAGE)
    run.stack.compose("up", "--detach", "--wait", "mlflow")
    run.goes_on()

    assert run.longest_step(since) < SLOW


def test_mlflow_paused_for_half_a_minute_is_not_noticed_by_the_loop(run: Run) -> None:
    since = time.time()
    run.docker("pause", run.container("mlflow"))
    time.sleep(OUTAGE)
    run.docker("unpause", run.container("mlflow"))
    run.goes_on()

    assert run.longest_step(since) < SLOW


def test_postgres_killed_and_a_network_that_is_cut_are_not_noticed_by_the_loop(run: Run) -> None:
    since = time.time()
    run.docker("kill", run.container("postgres"))
    run.docker("network", "disconnect", f"{run.stack.project}_tracking", run.container())
    time.sleep(15)
    run.stack.compose("up", "--detach", "--wait", "postgres")
    run.docker("network", "connect", f"{run.stack.project}_tracking", run.container())
    run.goes_on()

    assert run.longest_step(since) < SLOW


def test_a_trainer_that_is_killed_as_if_out_of_memory_comes_back_by_itself(run: Run) -> None:
    before = run.container()
    run.stack.compose(
        "exec", "-T", "trainer", "sh", "-c", "kill -9 -1", check=False
    )  # all but the container's init
    run.goes_on()

    assert run.container() == before
    assert run.stack.containers()["trainer"]["RestartCount"] == 1


def test_a_trainer_whose_container_is_killed_goes_on_when_it_is_started_again(run: Run) -> None:
    run.docker("kill", run.container())
    run.stack.compose("up", "--detach", "trainer")
    run.goes_on()


def test_a_trainer_that_is_stopped_has_saved_and_says_so_and_goes_on_when_started(run: Run) -> None:
    run.goes_on(10)
    begun = time.monotonic()
    run.stack.compose("stop", "trainer")

    assert time.monotonic() - begun < 30
    assert run.state()["ExitCode"] == 75
    assert read_journal(run.folder).status == "interrupted"
    (status,) = run.stack.sql(f"SELECT status FROM runs {ACTIVE}")
    assert status == "KILLED"
    done = run.losses()[-1][0]
    assert any(f"step-{done:08d}" in path.name for path in (run.folder / "checkpoints").iterdir())

    run.stack.compose("up", "--detach", "trainer")
    run.goes_on()
    until(lambda: run.stack.sql(f"SELECT status FROM runs {ACTIVE}") == ["RUNNING"])


@pytest.mark.skipif(os.environ.get("CI") != "true", reason="restarts Docker itself, with all its containers")
def test_a_run_comes_back_by_itself_when_docker_was_restarted(run: Run) -> None:
    run.goes_on(10)
    (daemon,) = [
        int(entry.name)
        for entry in Path("/proc").glob("[0-9]*")
        if (entry / "comm").exists() and (entry / "comm").read_text() == "dockerd\n"
    ]
    command, variables = (
        Path(f"/proc/{daemon}/{name}").read_text().rstrip("\0").split("\0") for name in ("cmdline", "environ")
    )
    os.kill(daemon, signal.SIGTERM)
    until(lambda: not Path(f"/proc/{daemon}").exists())
    with (run.folder.parent.parent / "dockerd.log").open("ab") as log:
        environment = dict(line.split("=", 1) for line in variables)
        subprocess.run(
            ["setsid", "--fork", *command], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
        )
    until(lambda: no_engine() is None)
    run.goes_on()


def test_after_all_that_there_is_one_run_with_every_metric_once(run: Run) -> None:
    run.stack.compose("up", "--detach", "--wait", "mlflow")
    run.goes_on()
    run.stack.compose("stop", "trainer")

    steps = [step for step, _ in run.losses()]
    assert steps == list(range(1, steps[-1] + 1))
    mlflow_has_each_point_once(run)


def test_a_server_that_is_gone_for_good_costs_nothing_and_another_gets_it_all(run: Run) -> None:
    run.stack.compose("up", "--detach", "trainer")
    run.goes_on()
    since = time.time()
    run.docker("kill", run.container("mlflow"))
    run.goes_on(20)
    assert run.longest_step(since) < SLOW
    run.stack.compose("stop", "trainer")
    assert run.state()["ExitCode"] == 75

    from mlflow import MlflowClient

    from trainer.tracking import read_run_ref, sync

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        sync(run.folder, follow=False)  # into a file beside the run
    place = read_run_ref(run.folder)
    stored = MlflowClient(place.tracking_uri).get_metric_history(place.run_id, metrics.TRAIN_LOSS)
    assert [point.step for point in stored] == [step for step, _ in run.losses()]


def test_on_a_full_disk_training_goes_on_and_saves_when_there_is_room(stack: Stack, tmp_path: Path) -> None:
    small = {"driver_opts": {"type": "tmpfs", "device": "tmpfs", "o": "size=400m,mode=0777"}}
    (tmp_path / "full.yaml").write_text(json.dumps({"volumes": {"runs": small}}))
    own = with_files(stack.sibling("full", tmp_path), override(tmp_path), str(tmp_path / "full.yaml"))
    in_trainer = ("exec", "-T", "trainer")
    try:
        own.compose("up", "--detach", "trainer")
        until(lambda: "step 3 of" in own.compose("logs", "trainer").stdout)
        own.compose(*in_trainer, "sh", "-c", "head -c 260M /dev/zero > /runs/filler || true")
        until(lambda: "cannot be written" in own.compose("logs", "trainer").stdout)
        said = own.compose("logs", "trainer").stdout
        assert "No space left on device" in said
        assert "training goes on" in said
        own.compose(*in_trainer, "rm", "/runs/filler")
        own.compose("stop", "trainer")
        assert own.containers()["trainer"]["State"]["ExitCode"] == 75
        assert "everything saved" in own.compose("logs", "trainer").stdout
    finally:
        own.down()
