"""`trainer compare` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.report.runs import evaluated_run
from trainer.cli import main


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.chdir(tmp_path)
    for number in range(1, 7):
        some = [number * epoch / 60 for epoch in range(1, 9)]
        evaluated_run(
            tmp_path / f"runs/digits-{number}", top1=some, usd=1.006, **{"optimizer.base_lr": number / 10}
        )
    return tmp_path


def test_six_runs_fit_80_columns(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "digits-*"]) == 0
    shown = capsys.readouterr().out

    tables = [line for line in shown.splitlines() if "optimizer" not in line]
    assert max(map(len, tables)) <= 80
    assert " 1  digits-1: 2 x NVIDIA T4, finished" in tables
    assert "  6          80.00         8  80.00   no       8        10  0.0133  0.0134" in tables
    assert "top-1 at equal dollars, %" in tables
    at = tables.index("top-1 by epoch, from 1.7% to 80.0%")
    assert [line.split()[1][-1] for line in tables[at + 1 : at + 7]] == [*"▂▃▄▆▇█"], "all on one scale"
    assert "  optimizer.base_lr  0.1 (1), 0.2 (2), 0.3 (3), 0.4 (4), 0.5 (5), 0.6 (6)" in shown


def test_the_page_and_the_picture_are_written_and_other_files_refused(
    runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, begin in (("compare.html", "<!doctype html>"), ("compare.svg", "<svg ")):
        assert main(["compare", "runs/digits-1", "runs/digits-2", "--out", name]) == 0
        assert (runs / name).read_text().startswith(begin)
        assert f"written to {name}" in capsys.readouterr().out

    for name, says in (("compare.pdf", "neither .html nor .svg"), ("no/where.html", "there is no folder no")):
        assert main(["compare", "digits-*", "--out", name]) == 2
        assert says in capsys.readouterr().err


def test_the_json_has_the_runs_and_what_differs(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", "digits-1", "digits-2", "--json"]) == 0
    (group,) = json.loads(capsys.readouterr().out)

    assert [run["name"] for run in group["runs"]] == ["digits-1", "digits-2"]
    assert group["settings"] == {"optimizer.base_lr": [0.1, 0.2]}
