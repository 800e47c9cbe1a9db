"""Runs are found by folder, name, pattern or MLflow's id, here or on a server, and each of them once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.report.runs import evaluated_run
from trainer.errors import ConfigError
from trainer.report import Group, as_data
from trainer.run import compare_runs
from trainer.tracking import Journal, read_run_ref, sync


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three runs and a range test; all but the last run are in MLflow too. One more run is in its start-up."""
    runs = tmp_path_factory.mktemp("compared") / "runs"
    evaluated_run(runs / "sweep-1", usd=1, ema_decay=0.5)
    evaluated_run(runs / "sweep-2", usd=1)
    evaluated_run(runs / "find-lr-sweep", top1=[], tags={"kind": "find-lr"})
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for name in ("sweep-1", "sweep-2", "find-lr-sweep"):
            sync(runs / name, follow=False)
    evaluated_run(runs / "other")
    (runs / "sweep-new").mkdir()
    Journal(runs / "sweep-new").note("the data set is not complete")  # before its first record
    return runs


def found(groups: tuple[Group, ...]) -> list[str]:
    return [run.name for group in groups for run in group.runs]


def test_a_folder_a_name_and_a_pattern_name_runs_and_no_run_twice(runs: Path) -> None:
    assert found(compare_runs(["sweep-*"], runs=runs)) == ["sweep-1", "sweep-2"]
    assert found(compare_runs(["other", str(runs / "sweep-2"), "s*", "*"], runs=runs)) == [
        "other",
        "sweep-2",
        "sweep-1",
    ]


def test_runs_whose_folders_are_elsewhere_are_read_from_mlflow_and_are_the_same(
    runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    shutil.copy(runs / "mlflow.db", tmp_path / "mlflow.db")
    ref = read_run_ref(runs / "sweep-1")
    assert ref
    here = as_data(compare_runs(["sweep-*"], runs=runs))

    assert as_data(compare_runs(["*"], runs=tmp_path)) == here
    assert as_data(compare_runs([f"runs:/{ref.run_id}", "sweep-2"], runs=tmp_path)) == here
    assert as_data(compare_runs([ref.run_id, str(runs / "sweep-2")], runs=tmp_path)) == here


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["sweep-1"], r"^sweep-1 names 1 run\(s\); name 2 to 24 to be compared, such as 'NAME-\*'$"),
        (
            ["sweep-1", "find-lr-sweep"],
            r"^find-lr-sweep is a range test, .* such as 'NAME-\*', passes over it$",
        ),
        (["sweep-1", "sweep-new"], r"^sweep-new has not begun yet; .* such as 'NAME-\*', passes over it$"),
        (
            ["sweep-1", "swoop*"],
            r"^swoop\* is no run folder, and names no run in .*runs nor in MLflow; .* sweep-2",
        ),
    ],
)
def test_what_names_no_runs_is_said(
    runs: Path, monkeypatch: pytest.MonkeyPatch, given: list[str], says: str
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    with pytest.raises(ConfigError, match=says):
        compare_runs(given, runs=runs)
