"""A background child does its work beside the trainer, and does not outlive it by much."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import is_alive
from tests.tracking.synced import in_mlflow, start, wait_for_step
from trainer.tracking._child import PARENT, BackgroundChild, Parent


@pytest.mark.slow
def test_a_killed_trainer_leaves_no_sync_behind(runs: Path) -> None:
    start(runs / "r").log(1, {"loss": 1})
    code = (
        "import sys, time; from pathlib import Path; from trainer.tracking import BackgroundSync\n"
        "with BackgroundSync(Path(sys.argv[1])) as background:\n"
        "    print(background.pid, flush=True); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(runs / "r")], stdout=subprocess.PIPE) as trainer:
        assert trainer.stdout is not None
        child = int(trainer.stdout.readline())
        wait_for_step(runs / "r", 1)
        trainer.kill()

    end = time.monotonic() + 60
    while is_alive(child):
        assert time.monotonic() < end
        time.sleep(0.2)
    assert in_mlflow(runs / "r").info.status == "KILLED"


def test_a_child_is_no_rank_and_has_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE", "MASTER_PORT", "TRAINER_LAUNCHED"):
        monkeypatch.setenv(name, "3")
    monkeypatch.setenv("OMP_NUM_THREADS", "8")
    env: dict[str, str] = {}
    while not env:  # of a child that is over before it is looked at, nothing can be read
        child = BackgroundChild(["sync", "--help"], tmp_path / "log")
        entries = Path(f"/proc/{child.pid}/environ").read_text().split("\0")
        env = dict(entry.split("=", 1) for entry in entries if "=" in entry)
        assert child.wait(60)
    assert not {"RANK", "WORLD_SIZE", "MASTER_PORT", "TRAINER_LAUNCHED"} & env.keys()
    assert (env["OMP_NUM_THREADS"], env[PARENT]) == ("1", str(os.getpid()))
    assert "usage: trainer sync" in (tmp_path / "log").read_text()


def test_a_child_that_fails_or_is_not_done_has_not_ended_well(tmp_path: Path) -> None:
    child = BackgroundChild(["no-such-command"], tmp_path / "log")

    assert not child.wait(0)
    assert not child.wait(60)


def test_a_child_ends_its_sleep_with_its_parent(tmp_path: Path) -> None:
    asleep = (
        "import os, signal, sys, time; from pathlib import Path; from trainer.tracking._child import Parent\n"
        "parent = Parent(); parent.sleep(0); os.kill(os.getpid(), signal.SIGUSR1)\n"
        "Path(sys.argv[1], 'asleep').touch()\n"
        "parent.sleep(600); Path(sys.argv[1], 'woken').write_text(str((parent.is_gone(), os.nice(0))))"
    )
    starting = (
        "import os, subprocess, sys, time; from trainer.tracking._child import PARENT\n"
        "env = {**os.environ, PARENT: str(os.getpid())}\n"
        "subprocess.Popen([sys.executable, '-c', *sys.argv[1:]], env=env); time.sleep(600)"
    )
    with subprocess.Popen([sys.executable, "-c", starting, asleep, str(tmp_path)]) as parent:
        wait_for_file(tmp_path / "asleep")
        parent.kill()

    assert eval(wait_for_file(tmp_path / "woken", full=True)) == (True, os.nice(0) + 5)


def wait_for_file(path: Path, *, full: bool = False) -> str:
    end = time.monotonic() + 60
    while not path.exists() or (full and not path.read_text()):
        assert time.monotonic() < end, path
        time.sleep(0.1)
    return path.read_text()


def test_who_was_started_by_hand_has_no_parent_to_lose(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PARENT, raising=False)
    before = signal.getsignal(signal.SIGTERM), os.nice(0)
    begun = time.monotonic()
    parent = Parent()

    parent.sleep(0.2)

    assert time.monotonic() - begun >= 0.2
    assert not parent.is_gone()
    assert (signal.getsignal(signal.SIGTERM), os.nice(0)) == before
