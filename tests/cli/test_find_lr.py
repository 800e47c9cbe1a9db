"""`trainer find-lr` as it is typed."""

from __future__ import annotations

import csv
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from mlflow import MlflowClient
from PIL import Image

from tests.cli.conftest import SETTINGS, SMALL, command, until
from trainer import metrics, ranks
from trainer.cli import main
from trainer.tracking import read_journal

BATCH, STEPS = 64, 150
TINY = [*SETTINGS, *SMALL, "--set", f"global_batch={BATCH}", "--device", "cpu"]


def find_lr(photos: Path, *more: str) -> list[str]:
    return ["find-lr", "digits", *TINY, "--data", str(photos), *more]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("find-lr")


@pytest.fixture(scope="module")
def outcome(folder: Path, digits: Path) -> Any:
    arguments = find_lr(digits, "--min-lr", "1e-4", "--max-lr", "1", "--steps", str(STEPS), "--json")
    process = command(*arguments, folder=folder)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out)


@pytest.mark.slow
def test_the_suggestions_lie_among_the_learning_rates_of_the_test(outcome: dict[str, Any]) -> None:
    assert 1e-4 < outcome["steepest"] < 1
    assert 1e-4 < outcome["min_div_10"] <= 0.1
    assert outcome["base_lr"] == pytest.approx(outcome["steepest"] * 256 / BATCH)


@pytest.mark.slow
def test_the_table_has_a_row_for_each_step(folder: Path, outcome: dict[str, Any]) -> None:
    with (folder / outcome["table"]).open(newline="") as file:
        rows = list(csv.DictReader(file))

    assert [int(row["step"]) for row in rows] == list(range(1, outcome["steps"] + 1))
    assert outcome["steps"] == STEPS
    assert (float(rows[0]["lr"]), float(rows[-1]["lr"])) == pytest.approx((1e-4, 1))
    assert all(float(row["loss"]) > 0 and float(row["smoothed"]) > 0 for row in rows)


@pytest.mark.slow
def test_the_curve_is_a_picture_with_both_suggestions(folder: Path, outcome: dict[str, Any]) -> None:
    with Image.open(folder / outcome["curve"]) as image:
        pixels = np.asarray(image.convert("RGB"))

    assert pixels.shape == (750, 1200, 3)
    assert 0.5 < (pixels == 255).all(axis=2).mean() < 0.99
    for colour in (0xD1, 0x49, 0x5B), (0x2A, 0x9D, 0x6F):
        assert (pixels == colour).all(axis=2).sum() > 100


@pytest.mark.slow
def test_mlflow_has_points_and_files_in_the_recipes_experiment(folder: Path, outcome: dict[str, Any]) -> None:
    client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    run = client.get_run(outcome["run_id"])
    history = read_journal(folder / outcome["run"])

    assert client.get_experiment(run.info.experiment_id).name == "cats-and-dogs"
    assert (run.info.status, run.data.tags["kind"], run.data.params["find_lr.steps"]) == (
        "FINISHED",
        "find-lr",
        str(STEPS),
    )
    assert float(run.data.tags["find_lr.steepest"]) == outcome["steepest"]
    assert float(run.data.tags["find_lr.min_div_10"]) == outcome["min_div_10"]
    for key in ("lr", "loss", "smoothed_loss"):
        synced = [
            (point.step, point.value)
            for point in client.get_metric_history(run.info.run_id, metrics.FIND_LR + key)
        ]
        assert sorted(synced) == [(p.step, p.value) for p in history.points if p.key == metrics.FIND_LR + key]
        assert len(synced) == STEPS
    assert {file.path for file in client.list_artifacts(run.info.run_id)} == {
        "recipe.json",
        "dataset.json",
        "journal.jsonl",
        "learning-rates.csv",
        "learning-rates.png",
    }


@pytest.mark.slow
def test_what_is_to_be_pasted_is_a_setting_of_train(
    folder: Path,
    outcome: dict[str, Any],
    digits: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(folder)
    paste = f"optimizer.base_lr={outcome['base_lr']:.3g}"

    assert main(["train", "digits", *TINY, "--set", paste, "--data", str(digits), "--dry-run"]) == 0
    assert f"peak lr  {float(paste.partition('=')[2]) * BATCH / 256:g}" in capsys.readouterr().out


@pytest.mark.slow
def test_a_stopped_test_has_a_folder_of_its_own_and_leaves_the_first_alone(
    folder: Path, outcome: dict[str, Any], digits: Path
) -> None:
    first = folder / outcome["run"]
    before = {path: path.read_bytes() for path in first.iterdir()}
    process = command(*find_lr(digits, "--steps", "100000"), folder=folder)
    journal = first.with_name(f"{first.name}-2") / "journal.jsonl"
    until(lambda: journal.exists() and metrics.FIND_LR + "loss" in journal.read_text(), process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)

    assert process.returncode == 75, err
    assert "the same command begins the test anew" in err
    assert "Traceback" not in err
    assert read_journal(journal.parent).status == "interrupted"
    assert {path: path.read_bytes() for path in first.iterdir()} == before
    assert not list(folder.glob("runs/*/checkpoints"))


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (["--min-lr", "1", "--max-lr", "0.1"], "must be above 0 and below the highest, 0.1"),
        (["--steps", "9"], "--steps 9 is not between 10 and"),
        (["--set", "global_batch=2000"], "larger than the 1437 training images"),
        (["--set", "model=resnet5"], "resnet5"),
        (["--name", "a/b"], "cannot name a folder"),
        (["--data", "nowhere"], "trainer prepare digits"),
    ],
)
def test_bad_input_is_refused_with_one_sentence(
    tmp_path: Path,
    digits: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    more: list[str],
    says: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    assert main(find_lr(digits, *more)) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.count("\n") == 1
    assert not list(tmp_path.glob("runs/find-lr*"))


@pytest.mark.parametrize("lr", ["0", "-1", "inf", "nan", "fast"])
def test_an_impossible_learning_rate_is_refused_by_the_parser(
    lr: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["find-lr", "digits", "--data", "x", "--max-lr", lr])

    assert stopped.value.code == 2
    assert "--max-lr" in capsys.readouterr().err


def test_several_processes_are_refused(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ranks.PLACE:
        monkeypatch.setenv(name, "2" if name.endswith("WORLD_SIZE") else "1")

    assert main(find_lr(photos)) == 2
    assert "start it without torchrun" in capsys.readouterr().err
