"""TensorBoard reads the event file as the journal has it, whatever happened to the run or the disk."""

from __future__ import annotations

import logging
import math
import os
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader
from tensorboard.util.tensor_util import make_ndarray

from tests.dataset.conftest import small_tmpfs
from trainer.tracking import DatasetInfo, Journal, RunInfo, TensorBoardLog, read_journal

INFO = RunInfo("n", "e", {}, {}, DatasetInfo("d", "", ""))


def shown(run: Path) -> list[tuple[str, int, float]]:
    """What TensorBoard has: key, step, value."""
    (file,) = (run / "tensorboard").iterdir()
    return [
        (value.tag, event.step, float(make_ndarray(value.tensor)))
        for event in EventFileLoader(str(file)).Load()
        for value in event.summary.value
    ]


def journaled(run: Path) -> list[tuple[str, int, object]]:
    return [(point.key, point.step, pytest.approx(point.value)) for point in read_journal(run).points]


def test_tensorboard_has_what_the_journal_has(tmp_path: Path) -> None:
    with TensorBoardLog(Journal(tmp_path), tmp_path) as log:
        log.start(INFO)
        log.truncate_after(0)
        for step in (10, 20):
            log.log(step, {"train/loss": 1 / step, "train/lr": 0.1})
        log.log(30, {"eval/top1": 0.5, "train/loss": math.nan})

    *finite, (key, step, loss) = shown(tmp_path)
    assert finite == journaled(tmp_path)[:5]
    assert (key, step, math.isnan(loss)) == ("train/loss", 30, True)


def test_a_run_that_goes_on_from_a_checkpoint_has_nothing_twice(tmp_path: Path) -> None:
    with TensorBoardLog(Journal(tmp_path), tmp_path) as log:
        log.start(INFO)
        log.truncate_after(0)
        for step in (10, 20, 30):
            log.log(step, {"train/loss": 1.0})

    with TensorBoardLog(Journal(tmp_path), tmp_path) as log:  # the checkpoint is of step 20
        log.start(INFO)
        log.truncate_after(20)
        log.log(30, {"train/loss": 2.0})

    assert shown(tmp_path) == [("train/loss", 10, 1.0), ("train/loss", 20, 1.0), ("train/loss", 30, 2.0)]


def test_a_full_disk_is_said_once_and_training_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        small_tmpfs(tmp_path / "small", megabytes=1) as disk,
        TensorBoardLog(Journal(tmp_path), disk) as log,
    ):
        (disk / "journal.jsonl").symlink_to(tmp_path / "journal.jsonl")
        log.start(INFO)
        log.truncate_after(0)
        (disk / "filler").write_bytes(bytes(os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize))
        with caplog.at_level(logging.WARNING):
            for step in range(200):
                log.log(step, {"train/loss": 1.0})

    assert [record.getMessage() for record in caplog.records] == [
        f"TensorBoard's event file in {disk}/tensorboard cannot be written (No space left on device); the run goes on "
        "without it, and its next start writes it anew"
    ]
    assert len(read_journal(tmp_path).points) == 200
