"""How a run ended stands in its journal, with the sentence that the terminal showed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tracking.conftest import run_info
from trainer.errors import DataError, Stopped
from trainer.run._session import record_exit_status
from trainer.tracking import Journal, RunHistory, read_journal


def ended_by(error: BaseException, folder: Path) -> RunHistory:
    journal = Journal(folder)
    journal.start(run_info())
    with pytest.raises(type(error)), record_exit_status(journal):
        raise error
    return read_journal(folder)


@pytest.mark.parametrize(
    ("error", "status", "reason"),
    [
        (DataError("cat/1.jpg is damaged;\n  remove it"), "failed", "cat/1.jpg is damaged; remove it"),
        (ValueError("http://me:secret@host"), "failed", "ValueError: http://host"),
        (Stopped("stopped on request at step 3"), "interrupted", "stopped on request at step 3"),
        (KeyboardInterrupt(), "interrupted", "stopped on request"),
    ],
)
def test_why_a_run_ended_is_kept(error: BaseException, status: str, reason: str, tmp_path: Path) -> None:
    history = ended_by(error, tmp_path)

    assert (history.status, history.reason) == (status, reason)


def test_a_reason_is_no_novel_and_a_run_that_goes_on_has_none(tmp_path: Path) -> None:
    assert len(ended_by(DataError("x" * 9999), tmp_path).reason) == 500

    Journal(tmp_path).start(run_info())
    assert read_journal(tmp_path).reason == ""
