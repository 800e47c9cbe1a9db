"""A stop before and after training: exit code 75 and a sentence, as while it trains."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, SETTINGS, SMALL, command
from tests.cli.test_faults import folder, run_of, says  # noqa: F401
from trainer.tracking import read_journal

pytestmark = pytest.mark.slow

ARGUMENTS = ["train", "digits", *SETTINGS, *SMALL, "--device", "cpu", "--no-report", "--no-export"]


def waiting_in(module: str, function: str, photos: Path, folder: Path) -> subprocess.Popen[str]:  # noqa: F811
    """A training that has come to `function`, and waits there for a long time."""
    program = (
        f"import sys, time, {module} as module; from trainer.cli import main\n"
        "def wait(*_, **__):\n    print('it waits', file=sys.stderr, flush=True)\n    while True: time.sleep(0.1)\n"
        f"module.{function} = wait; sys.exit(main(sys.argv[1:]))"
    )
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    env.pop("MLFLOW_TRACKING_URI", None)
    process = subprocess.Popen(
        [sys.executable, "-c", program, *ARGUMENTS, "--data", str(photos)],
        cwd=folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    says(process, "it waits")
    return process


@pytest.mark.parametrize(
    ("module", "function", "status"),
    [
        ("trainer.run._preflight", "rehearse", None),
        ("trainer.run._execution", "autotune", "interrupted"),
        ("trainer.run._worker", "_register", "finished"),
    ],
)
def test_a_stop_outside_of_training_ends_in_seconds(
    photos: Path,
    folder: Path,  # noqa: F811
    module: str,
    function: str,
    status: str | None,
) -> None:
    process = waiting_in(module, function, photos, folder)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)

    assert process.returncode == 75, err
    assert "start the same command again to go on" in err
    assert "Traceback" not in err
    if status:
        assert read_journal(run_of(folder), empty=True).status == status


def test_several_processes_that_are_stopped_before_the_first_step_say_so(
    photos: Path,
    folder: Path,  # noqa: F811
) -> None:
    process = command(*ARGUMENTS, "--data", photos, "--nproc-per-node", 2, folder=folder)
    says(process, "parameters")
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)

    assert process.returncode == 75, err
    assert "start the same command again to go on" in err
    assert "Traceback" not in err
