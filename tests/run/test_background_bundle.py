"""The bundle at the end of a training is made beside it, and its failure costs nothing but a sentence."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from tests.tracking.conftest import runs  # noqa: F401
from tests.tracking.test_bundle import write_bundle
from trainer.run._background_bundle import BackgroundBundle
from trainer.tracking import BUNDLE_LOG, Registered

pytestmark = pytest.mark.slow

GONE = Registered("nobody", 7, "0" * 32)


def test_one_that_fails_is_a_warning_with_the_command_that_tries_again(
    runs: Path,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    earlier = write_bundle(runs / "run" / "bundle", replace(GONE, version=6))
    folder = earlier.parent
    with caplog.at_level(logging.WARNING), BackgroundBundle(folder, GONE, "cpu") as bundle:
        assert bundle.wait(300) is None, "the one that is there is of another version"

    again = f"trainer export models:/nobody/7 --runs '{runs}' --out '{folder / 'bundle'}' --log"
    assert f"{BUNDLE_LOG} says why; try again with: {again}" in caplog.text
    assert "there is no registered model nobody" in (folder / BUNDLE_LOG).read_text()
    assert sorted(path.name for path in folder.iterdir()) == ["bundle", BUNDLE_LOG]


def test_one_that_takes_too_long_is_left_alone(
    runs: Path,  # noqa: F811
    caplog: pytest.LogCaptureFixture,
) -> None:
    (folder := runs / "run").mkdir()
    with caplog.at_level(logging.WARNING), BackgroundBundle(folder, GONE, "cpu") as bundle:
        assert bundle.wait(0) is None

    assert f"not made and sent after 0 minutes; that goes on, and {folder / BUNDLE_LOG} says" in caplog.text
    assert "could not" not in caplog.text
