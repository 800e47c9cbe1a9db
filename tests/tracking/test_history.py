"""What a journal tells to those who read it while it is written, and after."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from tests.tracking.conftest import run_info
from trainer.errors import TrackingError
from trainer.tracking import Journal, read_journal
from trainer.tracking._history import JOURNAL, Tail


def start(journal: Journal) -> None:
    journal.start(run_info())


def test_the_time_of_all_starts_adds_up_whichever_way_they_ended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1_000.0]  # seconds
    monkeypatch.setattr(time, "time_ns", lambda: int(now[0] * 1e9))

    def after(seconds: float) -> None:
        now[0] += seconds

    first = Journal(tmp_path)
    start(first)
    for step in (1, 2, 3):
        after(10)
        first.log(step, {"loss": step})
    after(5)
    first.finish("interrupted")  # 35 s
    after(3600)
    Journal(tmp_path).finish("failed")  # before it could begin
    after(3600)
    second = Journal(tmp_path)
    start(second)
    second.truncate_after(1)  # steps 2 and 3 were paid for all the same
    after(10)
    second.log(2, {"loss": 2})  # 45 s; killed
    after(3600)
    Journal(tmp_path).finish("failed")
    after(3600)
    third = Journal(tmp_path)
    third.note("something does not run here")  # while it tries what runs fastest
    after(100)
    start(third)
    third.truncate_after(1)
    after(1)
    third.finish("finished")

    history = read_journal(tmp_path)
    assert history.seconds == 46
    assert [point.step for point in history.points] == [1]
    assert (history.status, history.ended) == ("finished", int(now[0] * 1000))


def test_a_reader_follows_past_a_truncation(tmp_path: Path) -> None:
    journal, tail = Journal(tmp_path), Tail(tmp_path)
    start(journal)
    journal.log(1, {"loss": 1})
    journal.log(2, {"loss": 2})
    assert len(tail.read().points) == 2

    journal.truncate_after(1)
    journal.log(2, {"loss": 20})

    assert [point.value for point in tail.read().points] == [1, 20]
    tail.close()


@pytest.mark.parametrize("line", [b"x\n", b"[" * 100_000 + b"\n", b'{"kind": []}\n'])
def test_damage_in_the_middle_is_named(tmp_path: Path, line: bytes) -> None:
    journal = Journal(tmp_path)
    start(journal)
    journal.log(1, {"loss": 1})
    data = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(line + data)

    with pytest.raises(TrackingError, match="is damaged: the line at byte 0 is no record"):
        read_journal(tmp_path)


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=r"is not a run: it has no journal\.jsonl"):
        read_journal(tmp_path)
