"""`python -m benchmarks.loop`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.loop import main


def test_training_is_compared_with_its_bare_steps(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ["--data", str(photos), "--set", "global_batch=4", "--set", "model=tests.nets:Small"]
    # More steps than an epoch of the photos has.
    assert main(["digits", *settings, "--device", "cpu", "--steps", "3", "--rounds", "4", "--json"]) == 0

    figures = json.loads(capsys.readouterr().out)
    loop, bare = figures["seconds"]["loop"], figures["seconds"]["bare"]
    assert len(loop) == len(bare) == 4
    assert figures["loop_to_bare"] == pytest.approx(sum(bare) / sum(loop))
    low, high = figures["loop_to_bare_95"]
    assert low <= figures["loop_to_bare"] <= high


def test_the_result_is_a_table(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--set", "global_batch=4", "--set", "model=tests.nets:Small", "--steps", "1", "--rounds", "2"]
    assert main(["digits", "--data", str(photos), "--device", "cpu", *small]) == 0

    title, *rows = capsys.readouterr().out.splitlines()
    assert title == "2 rounds of 1 steps of 4 images each"
    assert [row.split()[0] for row in rows] == ["train", "bare", "ratio"]
