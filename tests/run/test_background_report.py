"""The report at the end of a training is made beside it, and its failure costs nothing but a sentence."""

from __future__ import annotations

import logging
import shutil
from pathlib import Path

import pytest

from tests.report.conftest import finished, hostile  # noqa: F401
from tests.tracking.conftest import runs  # noqa: F401
from trainer.predictions import PREDICTIONS
from trainer.run._background_report import MESSAGES, BackgroundReport
from trainer.tracking import REPORT, sync

pytestmark = pytest.mark.slow


@pytest.fixture
def folder(finished: Path, runs: Path) -> Path:  # noqa: F811
    """A run folder beside a store."""
    shutil.copytree(finished, runs / finished.name)
    return runs / finished.name


def test_it_is_written_and_sent(folder: Path) -> None:
    sync(folder, follow=False)
    with BackgroundReport(folder) as report:
        page = report.wait(300)

    assert page == folder / "report" / "report.html"
    assert "Grad-CAM" in page.read_text()


def test_one_that_fails_is_a_warning_that_says_where_to_look(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / PREDICTIONS).write_bytes(b"no predictions")
    with caplog.at_level(logging.WARNING), BackgroundReport(folder) as report:
        assert report.wait(300) is None

    assert f"{MESSAGES} says why; try again with: trainer report {folder}" in caplog.text
    assert "predictions.npz cannot be read" in (folder / MESSAGES).read_text()
    assert not (folder / REPORT).exists()


def test_one_that_cannot_be_sent_is_there_all_the_same(
    folder: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    with caplog.at_level(logging.WARNING), BackgroundReport(folder) as report:
        page = report.wait(300)

    assert page.is_file()
    assert "127.0.0.1:9" in caplog.text


def test_one_that_takes_too_long_is_left_alone(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING), BackgroundReport(folder) as report:
        assert report.wait(0) is None

    assert "could not be made" in caplog.text
