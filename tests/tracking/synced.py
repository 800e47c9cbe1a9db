"""Runs that are synced, and what MLflow and the journal have of them."""

from __future__ import annotations

import math
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.tracking.conftest import run_info
from trainer.tracking import Journal, read_journal, read_run_ref, tracking_uri
from trainer.tracking._mlflow_run import RUN_KEY
from trainer.tracking._server import connect
from trainer.tracking._system_metrics import SYSTEM

if TYPE_CHECKING:
    from mlflow.entities import Run


def start(folder: Path, **tags: str) -> Journal:
    journal = Journal(folder)
    journal.start(run_info(params={"epochs": 3, "a.b": [1, 2]}, tags=tags))
    return journal


def in_mlflow(folder: Path) -> Run:
    """The one run that MLflow has of this journal."""
    client = connect(tracking_uri(folder.parent))
    experiments = [experiment.experiment_id for experiment in client.search_experiments()]
    key = read_journal(folder).key
    (run,) = client.search_runs(experiments, f"tags.`{RUN_KEY}` = '{key}'")
    return run


def rows(folder: Path) -> Counter[tuple[str, int, float, int]]:
    """How often MLflow has each (key, step, value, ms)."""
    run = in_mlflow(folder)
    client = connect(tracking_uri(folder.parent))
    keys = [key for key in run.data.metrics if not key.startswith(SYSTEM)]
    return Counter(
        (key, m.step, m.value, m.timestamp)
        for key in keys
        for m in client.get_metric_history(run.info.run_id, key)
    )


def noted(folder: Path) -> Counter[tuple[str, int, float, int]]:
    points = read_journal(folder).points
    return Counter((p.key, p.step, p.value, p.time) for p in points if math.isfinite(p.value))


@contextmanager
def follower(folder: Path, **env: str) -> Iterator[subprocess.Popen[bytes]]:
    """`trainer sync --follow`, started by hand: it has no trainer as its parent."""
    command = [sys.executable, "-m", "trainer", "sync", str(folder), "--follow"]
    with (folder / "sync.log").open("ab") as log:
        child = subprocess.Popen(command, env={**os.environ, **env}, stdout=log, stderr=log)
    try:
        yield child
    finally:
        child.kill()
        child.wait()


def wait_for_step(folder: Path, step: int) -> None:
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if read_run_ref(folder) and any(row[1] == step for row in rows(folder)):
            return
        time.sleep(0.3)
    raise AssertionError(f"step {step} did not come: {(folder / 'sync.log').read_text()}")
