"""The journal survives whatever happens to its writer."""

from __future__ import annotations

import errno
import inspect
import json
import logging
import math
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.tracking.conftest import DATASET, run_info
from trainer.tracking import Journal, JournalHandler, NullLog, RunLog, read_journal
from trainer.tracking._history import JOURNAL


def start(journal: RunLog, **tags: str) -> None:
    journal.start(run_info(tags=tags))


def steps(folder: Path) -> list[int]:
    return [point.step for point in read_journal(folder).points]


def test_everything_that_was_logged_is_read_back(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    start(journal, gpu="T4")
    journal.log(1, {"loss": 2.5, "lr": 0.1})
    journal.log(2, {"loss": 0.1 + 0.2})
    journal.finish("finished")

    history = read_journal(tmp_path)
    assert (history.name, history.experiment, history.params) == ("first", "photos", {"epochs": 3})
    assert (history.tags, history.dataset, history.status) == ({"gpu": "T4"}, DATASET, "finished")
    logged = [(point.key, point.step, point.value) for point in history.points]
    assert logged == [("loss", 1, 2.5), ("lr", 1, 0.1), ("loss", 2, 0.1 + 0.2)]
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


def test_truncation_removes_what_was_measured_after_the_step_and_nothing_else(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    start(journal)
    for step in (1, 2, 3, 4):
        journal.log(step, {"loss": step})

    journal.truncate_after(2)
    journal.log(3, {"loss": 30})

    assert steps(tmp_path) == [1, 2, 3]
    assert read_journal(tmp_path).points[-1].value == 30


def test_what_a_kill_left_of_a_truncation_is_harmless(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    start(journal)
    journal.log(1, {"loss": 1})
    (tmp_path / f".{JOURNAL}.partial").write_text('{"kind": "sta')

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


def test_a_killed_writer_loses_nothing_that_it_had_logged(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from trainer.tracking import *\n"
        "journal = Journal(Path(sys.argv[1])); step = 0\n"
        "journal.start(RunInfo('n', 'e', {}, {}, DatasetInfo('d', '', '')))\n"
        "while True: step += 1; journal.log(step, {'loss': step}); print(step, flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE) as writer:
        assert writer.stdout is not None
        first = [int(writer.stdout.readline()) for _ in range(20)]
        writer.send_signal(signal.SIGKILL)
        printed = first + [int(line) for line in writer.stdout.read().split(b"\n")[:-1]]

    Journal(tmp_path).log(0, {"loss": 0})
    logged = steps(tmp_path)
    assert logged[-1] == 0
    assert logged[:-1] == list(range(1, len(logged)))
    assert len(logged) > printed[-1]


def test_on_a_full_disk_records_wait_in_memory_and_none_is_torn_or_lost(tmp_path: Path) -> None:
    code = (
        "import resource, signal, sys; from pathlib import Path; from trainer.tracking import *\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))\n"
        "for full in range(1000, 1100, 9):\n"
        "    journal = Journal(Path(sys.argv[1], str(full)))\n"
        "    journal.start(RunInfo('n', 'e', {}, {}, DatasetInfo('d', '', '')))\n"
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


def test_what_was_logged_for_the_newest_step_is_not_logged_again(tmp_path: Path) -> None:
    """A run killed between an evaluation and its checkpoint evaluates again."""
    journal = Journal(tmp_path)
    start(journal)
    journal.log(1, {"loss": 1.0})
    journal.log(1, {"top1": 0.5})
    again = Journal(tmp_path)
    again.truncate_after(1)
    again.log(1, {"top1": 0.6, "top5": 0.9})
    again.log(2, {"loss": 2.0})

    logged = [(point.key, point.step, point.value) for point in read_journal(tmp_path).points]
    assert logged == [("loss", 1, 1.0), ("top1", 1, 0.5), ("top5", 1, 0.9), ("loss", 2, 2.0)]


def test_notes_are_kept_and_are_no_metrics(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    start(journal)
    journal.note("the disk is full")

    assert "the disk is full" in (tmp_path / "journal.jsonl").read_text()
    assert read_journal(tmp_path).points == []


@pytest.mark.parametrize("method", ["start", "log", "step_done", "truncate_after", "flush", "finish"])
def test_the_null_log_takes_the_same_calls(method: str) -> None:
    wanted = inspect.signature(getattr(RunLog, method)).parameters

    assert inspect.signature(getattr(Journal, method)).parameters == wanted
    assert inspect.signature(getattr(NullLog, method)).parameters == wanted


def test_a_note_never_waits_for_a_write_that_it_interrupts(tmp_path: Path) -> None:
    """A signal handler that logs runs in the middle of whatever the process does."""
    journal = Journal(tmp_path)
    start(journal)
    with journal._lock:
        journal.note("the machine is taken away in two minutes")
    journal.log(1, {"loss": 1})

    kinds = [json.loads(line)["kind"] for line in (tmp_path / JOURNAL).read_text().splitlines()]
    assert kinds == ["start", "note", "metrics"]


def test_warnings_become_notes_and_progress_does_not(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    start(journal)
    logger = logging.getLogger("tests.journal")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler := JournalHandler(journal))
    try:
        logger.info("step %d", 1)
        logger.warning("%d steps were skipped", 3)
    finally:
        logger.removeHandler(handler)

    notes = [json.loads(line) for line in (tmp_path / JOURNAL).read_text().splitlines()][1:]
    assert [(note["kind"], note["text"]) for note in notes] == [("note", "3 steps were skipped")]


def test_neither_a_wrong_message_nor_a_journal_that_takes_nothing_stops_who_logs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler = JournalHandler(Journal(tmp_path))
    handler.handle(logging.LogRecord("trainer", logging.ERROR, "", 0, "no %d", ("number",), None))

    monkeypatch.setattr(Journal, "note", lambda *_: 1 / 0)
    handler.handle(logging.LogRecord("trainer", logging.ERROR, "", 0, "no room", None, None))


def test_notes_of_many_threads_are_all_kept(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    start(journal)

    def notes(name: str) -> None:
        for number in range(200):
            journal.note(f"{name} {number}")

    threads = [threading.Thread(target=notes, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    journal.flush()

    kept = [json.loads(line)["text"] for line in (tmp_path / JOURNAL).read_text().splitlines()[1:]]
    assert sorted(kept) == sorted(f"{name} {number}" for name in "abc" for number in range(200))


def test_a_step_that_is_done_is_no_record(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    start(journal)
    before = (tmp_path / JOURNAL).read_bytes()

    journal.step_done(1)
    journal.flush()

    assert (tmp_path / JOURNAL).read_bytes() == before
