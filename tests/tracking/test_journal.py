"""The journal survives whatever happens to its writer."""

from __future__ import annotations

import errno
import inspect
import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from trainer.errors import TrackingError
from trainer.tracking import DatasetInfo, Journal, NullLog, RunLog, read_journal
from trainer.tracking._journal import JOURNAL, Tail

DATASET = DatasetInfo("photos", "d" * 64, "/data", {"train": 20, "val": 9})


def start(journal: RunLog, **tags: str) -> None:
    journal.start(name="first", experiment="photos", params={"epochs": 3}, tags=tags, dataset=DATASET)


def steps(folder: Path) -> list[int]:
    return [point.step for point in read_journal(folder).points]


def test_everything_that_was_noted_is_read_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    start(journal, gpu="T4")
    journal.log(1, {"loss": 2.5, "lr": 0.1})
    journal.log(2, {"loss": 0.1 + 0.2})
    journal.finish("finished")

    history = read_journal(tmp_path)
    assert (history.name, history.experiment, history.params) == ("first", "photos", {"epochs": 3})
    assert (history.tags, history.dataset, history.status) == ({"gpu": "T4"}, DATASET, "finished")
    told = [(point.key, point.step, point.value) for point in history.points]
    assert told == [("loss", 1, 2.5), ("lr", 1, 0.1), ("loss", 2, 0.1 + 0.2)]
    assert history.ended is not None
    assert time.time() * 1000 - 60_000 < history.started <= history.points[0].time <= history.ended


def test_numbers_that_json_lacks_are_read_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    start(journal)
    journal.log(1, {"a": math.inf, "b": -math.inf, "c": math.nan})

    a, b, c = (point.value for point in read_journal(tmp_path).points)
    assert (a, b) == (math.inf, -math.inf)
    assert math.isnan(c)


def test_a_resumed_run_is_the_same_run_with_the_new_tags(tmp_path: Path) -> None:
    first = Journal(tmp_path)
    start(first, gpu="T4", processes="1")
    first.log(1, {"loss": 2})
    first.finish("interrupted")
    before = read_journal(tmp_path)

    start(Journal(tmp_path), gpu="A10G", processes="1")

    after = read_journal(tmp_path)
    assert (after.key, after.started, after.points) == (before.key, before.started, before.points)
    assert after.tags == {"gpu": "A10G", "processes": "1"}
    assert (before.status, after.status, after.ended) == ("interrupted", "running", None)


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
    start(third)
    third.truncate_after(1)
    after(1)
    third.finish("finished")

    history = read_journal(tmp_path)
    assert history.seconds == 46
    assert [point.step for point in history.points] == [1]
    assert (history.status, history.ended) == ("finished", int(now[0] * 1000))


def test_cut_forgets_what_was_measured_after_the_step_and_nothing_else(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    start(journal)
    for step in (1, 2, 3, 4):
        journal.log(step, {"loss": step})

    journal.truncate_after(2)
    journal.log(3, {"loss": 30})

    assert steps(tmp_path) == [1, 2, 3]
    assert read_journal(tmp_path).points[-1].value == 30


def test_a_reader_follows_past_a_cut(tmp_path: Path) -> None:
    journal, tail = Journal(tmp_path), Tail(tmp_path)
    start(journal)
    journal.log(1, {"loss": 1})
    journal.log(2, {"loss": 2})
    assert len(tail.read().points) == 2

    journal.truncate_after(1)
    journal.log(2, {"loss": 20})

    assert [point.value for point in tail.read().points] == [1, 20]
    tail.close()


def test_what_a_kill_left_of_a_cut_is_harmless(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    start(journal)
    journal.log(1, {"loss": 1})
    (tmp_path / JOURNAL).with_suffix(".cut").write_text('{"kind": "sta')

    assert steps(tmp_path) == [1]
    journal.truncate_after(0)
    assert steps(tmp_path) == []


def test_a_torn_last_line_is_passed_over_and_then_removed(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    start(journal)
    journal.log(1, {"loss": 1})
    whole = (tmp_path / JOURNAL).read_bytes()
    journal.log(2, {"loss": 2})
    both = (tmp_path / JOURNAL).read_bytes()

    for length in range(len(whole), len(both)):
        (tmp_path / JOURNAL).write_bytes(both[:length])
        assert steps(tmp_path) == [1]

        Journal(tmp_path).log(3, {"loss": 3})
        assert steps(tmp_path) == [1, 3]


def test_zeros_that_a_power_cut_left_at_the_end_are_removed(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    start(journal)
    with (tmp_path / JOURNAL).open("ab") as file:
        file.write(b"\0" * 700 + b"\n" + b"\0" * 30)

    Journal(tmp_path).log(1, {"loss": 1})

    assert steps(tmp_path) == [1]


def test_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    start(journal)
    journal.log(1, {"loss": 1})
    data = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(b"x" + data[1:])

    with pytest.raises(TrackingError, match="0 bytes in: this line is damaged"):
        read_journal(tmp_path)


def test_a_killed_writer_loses_nothing_that_it_had_noted(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from trainer.tracking import *\n"
        "journal = Journal(Path(sys.argv[1])); step = 0\n"
        "journal.start(name='n', experiment='e', params={}, tags={}, dataset=DatasetInfo('d', '', ''))\n"
        "while True: step += 1; journal.log(step, {'loss': step}); print(step, flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        writer.stdout.readline()
        time.sleep(0.2)
        writer.send_signal(signal.SIGKILL)
        told = [int(line) for line in writer.stdout.read().split(b"\n")[:-1]]

    Journal(tmp_path).log(0, {"loss": 0})
    noted = steps(tmp_path)
    assert len(told) > 10
    assert noted[-1] == 0
    assert noted[:-1] == list(range(1, len(noted)))
    assert len(noted) > told[-1]


def test_on_a_full_disk_records_wait_in_memory_and_none_is_torn_or_lost(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path; from trainer.tracking import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))\n"
        "for full in range(1000, 1100, 9):\n"
        "    journal = Journal(Path(sys.argv[1], str(full)))\n"
        "    journal.start(name='n', experiment='e', params={}, tags={}, dataset=DatasetInfo('d', '', ''))\n"
        "    limit(full)\n"
        "    for step in range(40): journal.log(step, {'loss': step})\n"
        "    try: journal.flush()\n"
        "    except OSError as error:\n"
        "        print(full, len(read_journal(Path(sys.argv[1], str(full))).points), error.errno)\n"
        "    limit(10**6); journal.flush()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, check=True, text=True
    )

    refused = [line.split() for line in done.stdout.splitlines()]
    assert len(refused) == len(range(1000, 1100, 9))
    for full, noted, error in refused:
        assert 0 < int(noted) < 40
        assert int(error) in (errno.EFBIG, errno.ENOSPC)
        assert steps(tmp_path / full) == list(range(40))


def test_what_was_noted_for_the_newest_step_is_not_noted_again(tmp_path: Path) -> None:
    """A run killed between an evaluation and its checkpoint evaluates again."""
    journal = Journal(tmp_path)
    start(journal)
    journal.log(1, {"loss": 1.0})
    journal.log(1, {"top1": 0.5})
    again = Journal(tmp_path)
    again.truncate_after(1)
    again.log(1, {"top1": 0.6, "top5": 0.9})
    again.log(2, {"loss": 2.0})

    noted = [(point.key, point.step, point.value) for point in read_journal(tmp_path).points]
    assert noted == [("loss", 1, 1.0), ("top1", 1, 0.5), ("top5", 1, 0.9), ("loss", 2, 2.0)]


def test_notes_are_kept_and_are_no_metrics(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    start(journal)
    journal.note("the disk is full")

    assert "the disk is full" in (tmp_path / "journal.jsonl").read_text()
    assert read_journal(tmp_path).points == []


def test_a_folder_without_a_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match=r"is not a run: it has no journal\.jsonl"):
        read_journal(tmp_path)


@pytest.mark.parametrize("method", ["start", "log", "note", "cut", "flush", "finish"])
def test_the_silent_log_takes_the_same_calls(method: str) -> None:
    wanted = inspect.signature(getattr(RunLog, method)).parameters

    assert inspect.signature(getattr(Journal, method)).parameters == wanted
    assert inspect.signature(getattr(NullLog, method)).parameters == wanted
