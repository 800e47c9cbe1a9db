"""The mirror beside a training: refused in a sentence at the start, told once later, and never in the way."""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks._s3_proxy import Proxy, in_front_of
from tests.dataset.conftest import Bucket, bucket, s3_endpoint  # noqa: F401
from tests.mirror.conftest import files_of, write_checkpoint
from tests.tracking.conftest import runs  # noqa: F401
from tests.tracking.synced import in_mlflow, start
from trainer.config import Recipe
from trainer.dataset import Dataset
from trainer.errors import ConfigError, MirrorError
from trainer.mirror import open_store, read_state
from trainer.run import Plan, StartOptions, check_mirror
from trainer.run import _mirrored as mirrored_module
from trainer.run._mirrored import Mirrored
from trainer.tracking import sync

pytestmark = pytest.mark.slow  # each child takes a second


@pytest.fixture
def proxy(s3_endpoint: str, bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> Proxy:  # type: ignore[misc] # noqa: F811
    with in_front_of(s3_endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        yield proxy


@pytest.fixture
def options(bucket: Bucket, tmp_path: Path) -> StartOptions:  # noqa: F811
    return StartOptions(
        runs=tmp_path / "runs",
        runs_remote=f"s3://{bucket.name}/runs",
        mirror_every=0.5,
        checkpoint_interval=0.1,
    )


@pytest.fixture
def plan(tiny: Recipe, dataset: Dataset, options: StartOptions) -> Plan:
    return Plan(replace(tiny, epochs=1000), dataset, options.runs / "run")


def elsewhere(options: StartOptions, plan: Plan, name: str = "elsewhere") -> tuple[StartOptions, Plan]:
    """The same run, started on another machine."""
    there = options.runs.parent / name
    return replace(options, runs=there), replace(plan, folder=there / "run")


def begin(plan: Plan, step: int = 2) -> None:
    plan.folder.mkdir(parents=True, exist_ok=True)
    plan.write()
    write_checkpoint(plan.folder, step)


def mirrored_step(plan: Plan) -> int:
    state = read_state(plan.folder)
    return state.step if state and not state.behind else -1


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_run_goes_up_as_it_goes_on_and_at_its_end_whole(
    proxy: Proxy,
    options: StartOptions,
    plan: Plan,
    bucket: Bucket,  # noqa: F811
) -> None:
    with Mirrored(options) as mirror:
        mirror.restore(plan)
        begin(plan)
        until(lambda: mirrored_step(plan) == 2)
        write_checkpoint(plan.folder, 3)
        until(lambda: mirrored_step(plan) == 3)
        write_checkpoint(plan.folder, 4)
        for name in ("model/weights.safetensors", "report/report.html", "result.json"):
            (plan.folder / name).parent.mkdir(exist_ok=True)
            (plan.folder / name).write_text("{}")
    assert mirrored_step(plan) == 4
    assert check_mirror(plan, options) == f"{options.runs_remote}, which has it up to step 4"

    there, other = elsewhere(options, plan)
    with Mirrored(there) as mirror:
        mirror.restore(other)
    assert {"model/weights.safetensors", "report/report.html", "result.json"} <= files_of(other.folder).keys()
    assert files_of(other.folder)["journal.jsonl"] == files_of(plan.folder)["journal.jsonl"]


def test_a_second_machine_is_refused_and_the_first_is_not_disturbed(
    proxy: Proxy, options: StartOptions, plan: Plan
) -> None:
    options = replace(options, mirror_every=2)
    with Mirrored(options) as mirror:
        mirror.restore(plan)
        begin(plan)
        there, other = elsewhere(options, plan)
        second = Mirrored(replace(there, unmirrored=True))
        with pytest.raises(MirrorError, match=r"is being trained on .+; wait for it, or start"), second:
            second.restore(other)
        assert not other.folder.exists()
        until(lambda: mirrored_step(plan) == 2)


@pytest.mark.parametrize("fault", ["denied", "no network"])
def test_a_mirror_that_cannot_be_used_refuses_the_start_unless_the_user_consents(
    proxy: Proxy,
    options: StartOptions,
    plan: Plan,
    fault: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proxy.status = 403 if fault == "denied" else 0
    if fault == "no network":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with (
        pytest.raises(MirrorError, match="--unmirrored starts without it") as refused,
        Mirrored(options) as mirror,
    ):
        mirror.restore(plan)
    assert str(refused.value).count("s3://") == 1
    assert "\n" not in str(refused.value)

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(mirrored_module, "END_SECONDS", 1)
    with Mirrored(replace(options, unmirrored=True)) as mirror:
        mirror.restore(plan)
        begin(plan)
        time.sleep(0.5)
    text = caplog.text
    assert text.count("training goes on, it is tried again") == 1
    assert text.count(f"send the rest with: trainer mirror {plan.folder}") == 1


def test_an_outage_is_told_once_and_so_is_its_end(
    proxy: Proxy, options: StartOptions, plan: Plan, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with Mirrored(options) as mirror:
        mirror.restore(plan)
        begin(plan)
        until(lambda: mirrored_step(plan) == 2)
        proxy.status = 503
        write_checkpoint(plan.folder, 10)
        until(lambda: "it is tried again" in caplog.text)
        asked = proxy.asked
        until(lambda: proxy.asked > asked + 2)
        proxy.well()
        until(lambda: mirrored_step(plan) == 10)
    assert caplog.text.count("the mirror is behind: ") == 1
    until(lambda: caplog.text.count("the mirror is up to date again") == 1)


def test_a_machine_whose_lease_was_taken_says_so_and_touches_nothing_any_more(
    proxy: Proxy,
    options: StartOptions,
    plan: Plan,
    caplog: pytest.LogCaptureFixture,
    s3_endpoint: str,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Mirrored(options) as mirror:
        mirror.restore(plan)
        begin(plan)
        until(lambda: mirrored_step(plan) == 2)
        proxy.status = 503  # between this machine and S3; the lease is of 3 seconds
        monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
        there, other = elsewhere(options, plan)
        with Mirrored(there) as second:
            second.restore(other)
            write_checkpoint(other.folder, 4)
            until(lambda: mirrored_step(other) == 4)
            proxy.well()
            write_checkpoint(plan.folder, 1000)
            until(lambda: "the mirror was taken over by" in caplog.text)
            write_checkpoint(other.folder, 6)
            until(lambda: mirrored_step(other) == 6)
    assert caplog.text.count("this run goes on without a mirror") == 1
    store = open_store(str(options.runs_remote), "run")
    assert not any("step-00001000" in name for name in store.names("files/"))


def test_the_mirror_of_other_settings_is_refused(proxy: Proxy, options: StartOptions, plan: Plan) -> None:
    with Mirrored(options) as mirror:
        mirror.restore(plan)
        begin(plan)

    there, other = elsewhere(options, replace(plan, recipe=replace(plan.recipe, seed=7)))
    with (
        pytest.raises(ConfigError, match="was begun with seed=0 instead of 7; go on with"),
        Mirrored(there) as mirror,
    ):
        mirror.restore(other)


def test_processes_that_are_not_the_first_leave_the_mirror_alone(
    options: StartOptions, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "MASTER_ADDR": "x"}
    for name, value in {**place, "MASTER_PORT": "1"}.items():
        monkeypatch.setenv(name, value)
    with Mirrored(options) as mirror:
        mirror.restore(plan)
    assert not options.runs.exists()


def test_mlflow_says_at_the_end_that_the_mirror_is_behind(
    proxy: Proxy,
    options: StartOptions,
    plan: Plan,
    runs: Path,  # noqa: F811
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    options, plan = replace(options, runs=runs), replace(plan, folder=runs / "run")
    monkeypatch.setattr(mirrored_module, "END_SECONDS", 1)
    with Mirrored(options) as mirror:
        mirror.restore(plan)
        start(plan.folder).finish("finished")
        sync(plan.folder, follow=False)
        write_checkpoint(plan.folder, 2)
        until(lambda: mirrored_step(plan) == 2)
        proxy.silent = True
        write_checkpoint(plan.folder, 3)

    assert in_mlflow(plan.folder).data.tags["mirror"] == (
        f"{options.runs_remote}: BEHIND, not all was sent in 1 seconds"
    )


def test_a_mirrors_process_that_dies_is_told_and_started_again(
    proxy: Proxy,
    options: StartOptions,
    plan: Plan,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mirrored_module, "FIRST_PAUSE", 0.1)
    caplog.set_level(logging.INFO)
    with Mirrored(options) as mirror:
        mirror.restore(plan)
        begin(plan)
        until(lambda: mirrored_step(plan) == 2)
        os.kill(mirror._child.pid, signal.SIGKILL)
        write_checkpoint(plan.folder, 1000)
        until(lambda: mirrored_step(plan) == 1000)
    assert caplog.text.count("the mirror's process has ended; it is started again in 0.1 s") == 1
    assert caplog.text.count(f"{options.runs_remote} has nothing of run; it goes there from now on") == 1
    assert "the mirror is behind" not in caplog.text


def test_who_brings_nothing_new_or_presses_ctrl_c_does_not_wait_for_a_silent_mirror(
    proxy: Proxy, options: StartOptions, plan: Plan, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mirrored_module, "NOTHING_NEW_SECONDS", 1)
    begin(plan)
    with Mirrored(options) as mirror:
        mirror.restore(plan)
        proxy.silent, begun = True, time.monotonic()
    assert time.monotonic() - begun < 60  # of 600

    proxy.well()
    mirror = Mirrored(options)
    mirror.restore(plan)
    write_checkpoint(plan.folder, 3)
    child, proxy.silent, begun = mirror._child, True, time.monotonic()
    mirror.__exit__(KeyboardInterrupt, KeyboardInterrupt(), None)
    assert time.monotonic() - begun < 60
    os.kill(child.pid, signal.SIGKILL)


def test_runs_that_cannot_be_written_are_refused_in_a_sentence(options: StartOptions, plan: Plan) -> None:
    options.runs.write_text("a file")
    with (
        pytest.raises(ConfigError, match=r"cannot be written: .*; choose another"),
        Mirrored(options) as mirror,
    ):
        mirror.restore(plan)
