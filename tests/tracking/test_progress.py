"""A run's description says how far it is, when it ends and what it costs; and why it ended, if it did."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.tracking.conftest import run_info
from trainer import metrics
from trainer.tracking import PRICE, Journal, read_journal
from trainer.tracking._history import JOURNAL, RunHistory
from trainer.tracking._progress import ending, progress, warnings

HOUR = 3_600_000  # ms
BEGUN = 1_795_651_200_000  # 2026-11-26 00:00 UTC


def history(folder: Path, *records: dict[str, Any], price: str = "0.5", epochs: int = 10) -> RunHistory:
    """A run that began at midnight, with these records (`time` in hours)."""
    Journal(folder).start(run_info(params={"epochs": epochs}, tags={PRICE: price} if price else {}))
    lines = [json.loads(line) for line in (folder / JOURNAL).read_text().splitlines()]
    lines[0]["time"] = BEGUN
    lines += [{**record, "time": BEGUN + round(HOUR * record["time"])} for record in records]
    (folder / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return read_journal(folder)


def epoch(number: int, hours: float, top1: float) -> dict[str, Any]:
    values = {metrics.EPOCH: number, metrics.VAL_TOP1: top1, metrics.THROUGHPUT: 400.0}
    return {"kind": "metrics", "time": hours, "step": 100 * number, "values": values}


def test_a_run_says_how_far_it_is_and_when_it_ends(tmp_path: Path) -> None:
    run = history(tmp_path, epoch(1, 1, 0.2), epoch(2, 2, 0.43124), epoch(3, 3, 0.4))

    assert progress(run) == (
        "epoch 3 of 10: top-1 40.00%, best 43.12% after epoch 2, 400 images/s, "
        "ends about 2026-11-26 10:00 UTC, $1.50 of about $5.00"
    )


def test_the_epochs_of_the_run_that_is_extended_took_no_time_of_this_one(tmp_path: Path) -> None:
    run = history(tmp_path, epoch(8, 0, 0.5), epoch(9, 1, 0.6))
    run.tags["parent_epochs"] = "8"

    assert "ends about 2026-11-26 02:00 UTC" in progress(run)


def test_an_interruption_makes_no_epoch_longer(tmp_path: Path) -> None:
    stopped = {"kind": "end", "status": "interrupted", "time": 2.1}
    resumed = {"kind": "resume", "tags": {}, "time": 20}
    run = history(tmp_path, epoch(1, 1, 0.2), epoch(2, 2, 0.3), stopped, resumed, epoch(3, 20.9, 0.4))

    assert "ends about 2026-11-27 03:54 UTC" in progress(run)
    assert "$1.50 of about $5.00" in progress(run)


def test_what_is_not_known_is_not_said(tmp_path: Path) -> None:
    assert progress(history(tmp_path / "a")) == "in its first epoch"
    assert "$" not in progress(history(tmp_path / "b", epoch(1, 1, 0.2), price=""))
    assert "$" not in progress(history(tmp_path / "c", epoch(1, 1, 0.2), price="free"))
    assert progress(history(tmp_path / "d", epoch(1, 0, math.nan))).startswith("epoch 1 of 10")


@pytest.mark.parametrize("status", ["failed", "interrupted"])
def test_why_a_run_ended_comes_first(tmp_path: Path, status: str) -> None:
    end = {"kind": "end", "status": status, "reason": "No space left on device; mend that", "time": 2}
    run = history(tmp_path, epoch(1, 1, 0.2), end)

    assert progress(run).startswith(
        f"{status}: No space left on device; mend that; epoch 1 of 10: top-1 20.00%"
    )
    assert "ends about" not in progress(run)
    assert ending(run) == f"{status}: No space left on device; mend that"


def test_the_newest_warnings_are_kept_and_passwords_are_not(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    journal.start(run_info())
    for number in range(5):
        journal.note(f"try {number}\nat http://me:secret@host failed " + 300 * "x")

    shown = warnings(read_journal(tmp_path))

    assert [note[:22] for note in shown] == [
        "try 2 at http://host f",
        "try 3 at http://host f",
        "try 4 at http://host f",
    ]
    assert all(len(note) == 200 for note in shown)
