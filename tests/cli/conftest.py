"""The command line as users call it: in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
TINY = [
    "classes=null",
    "epochs=2",
    "global_batch=8",
    "schedule.warmup_epochs=1",
    "log_every=1",
    "preprocess.train_size=32",
    "preprocess.val_size=32",
    "preprocess.val_resize=32",
    "registered_model_name=cats-and-dogs",
]
SETTINGS = [word for setting in TINY for word in ("--set", setting)]
SMALL = ["--set", "model=tests.nets:Small"]


def command(
    *arguments: Any, folder: Path, module: str = "trainer", **environment: str
) -> subprocess.Popen[str]:
    """`trainer`, or another module, with these arguments, started in `folder`."""
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **environment}
    if "MLFLOW_TRACKING_URI" not in environment:
        env.pop("MLFLOW_TRACKING_URI", None)
    return subprocess.Popen(
        [sys.executable, "-m", module, *map(str, arguments)],
        cwd=folder,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def until(
    condition: Callable[[], Any],
    process: subprocess.Popen[str] | None = None,
    seconds: float = 300,
    every: float = 0.02,
) -> Any:
    """The first true answer of `condition`, while the process runs."""
    end = time.monotonic() + seconds
    while not (answer := condition()):
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < end
        time.sleep(every)
    return answer
