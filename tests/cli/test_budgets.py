"""Budgets as they are typed: a run that is stopped, refused, given more, and one that ends at its target."""

from __future__ import annotations

import io
import json
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import SETTINGS, SMALL, command
from trainer import metrics
from trainer.cli import main
from trainer.tracking import read_journal

pytestmark = pytest.mark.slow

OPTIONS = [*SETTINGS, *SMALL, "--device", "cpu", "--no-report", "--no-export", "--json"]


def measured(folder: Path, *, last_step: int) -> list[tuple[str, int, float]]:
    keys = (metrics.TRAIN_LOSS, metrics.LR, metrics.VAL_LOSS, metrics.VAL_TOP1)
    points = read_journal(folder).points
    return [point[:3] for point in points if point.key in keys and point.step <= last_step]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("budgets")


def start(folder: Path, photos: Path, *more: str) -> tuple[int, str, str]:
    """Exit code and output of `trainer train` in this process: importing torch and MLflow once is enough."""
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        code = main(["train", "digits", *OPTIONS, "--data", str(photos), *more])
    return code, out.getvalue(), err.getvalue()


def tags_of(folder: Path, run_id: str) -> dict[str, str]:
    from mlflow import MlflowClient

    tags: dict[str, str] = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db").get_run(run_id).data.tags
    return tags


@pytest.fixture(scope="module")
def at_target(folder: Path, photos: Path) -> dict[str, Any]:
    """A run of two epochs whose first reaches its target."""
    code, out, _ = start(folder, photos, "--until-top1", "0.001")
    assert code == 0
    result: dict[str, Any] = json.loads(out)
    return result


def test_a_run_that_reaches_its_target_is_finished_and_registered(
    folder: Path, at_target: dict[str, Any]
) -> None:
    history = read_journal(folder / at_target["run"])
    evaluated = [point for point in history.points if point.key == metrics.VAL_TOP1]

    assert [point.step for point in evaluated] == [2], "of four steps"
    assert history.status == "finished"
    assert at_target["top1"] == evaluated[0].value
    assert at_target["model"] == "models:/cats-and-dogs/1"
    (note,) = history.notes
    assert "after epoch 1 of 2: that is what --until-top1 asks for" in note
    assert tags_of(folder, at_target["run_id"])["budget"] == "--until-top1 0.001"


def test_a_run_out_of_budget_is_saved_refused_and_goes_on_with_more(
    folder: Path, photos: Path, at_target: dict[str, Any]
) -> None:
    broke = ["--name", "broke", "--price", "36"]  # a cent a second
    process = command(
        "train", "digits", *OPTIONS, "--data", photos, *broke, "--max-dollars", "0.0001", folder=folder
    )
    _, err = process.communicate(timeout=300)
    assert process.returncode == 75, err
    assert "stopped because --max-dollars 0.0001 is spent at step " in err
    assert "everything saved; start the same command with a larger budget to go on" in err
    (run,) = folder.glob("runs/broke-*")
    history = read_journal(run)
    assert (history.status, history.tags["budget"]) == ("interrupted", "--max-dollars 0.0001")
    assert "--max-dollars 0.0001 is spent" in history.reason

    code, _, err = start(folder, photos, *broke, "--max-dollars", "0.0001")
    assert code == 2
    assert "already, which is all that --max-dollars 0.0001 allows; give more to go on" in err

    code, out, _ = start(folder, photos, *broke, "--max-dollars", "500")
    result = json.loads(out)
    assert code == 0
    assert result["usd"] == pytest.approx(36 * result["hours"])
    assert tags_of(folder, result["run_id"])["budget"] == "--max-dollars 500"
    assert [step for key, step, _ in measured(run, last_step=4) if key == metrics.TRAIN_LOSS] == [1, 2, 3, 4]
    assert measured(run, last_step=2) == measured(folder / at_target["run"], last_step=2)


def test_a_budget_that_cannot_do_is_refused_before_anything_is_written(tmp_path: Path, photos: Path) -> None:
    for more, says in (
        (["--max-dollars", "1"], "--max-dollars needs the price of the machine"),
        (["--max-hours", "1", "--instance", "p3.2xlarge"], "for which CUDA 13 has no code"),
        (["--max-hours", "1", "--fit"], "--fit has to know what this machine makes"),
        (
            [
                "--set",
                "model=resnet50",
                "--device",
                "auto",
                "--instance",
                "g5.xlarge",
                "--max-dollars",
                "1e-8",
            ],
            "as predicted for g5.xlarge, and --max-dollars 1e-08 allows 0:00: not one epoch fits",
        ),
    ):
        code, _, err = start(tmp_path, photos, *more)
        assert code == 2
        assert says in err
    assert list(tmp_path.iterdir()) == []
