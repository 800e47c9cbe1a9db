"""What the user sees when the input is wrong: one sentence, exit 2, nothing left behind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import write_photo
from trainer.cli import main

SMALL = ("--set", "classes=2", "--set", "global_batch=8")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return tmp_path


def refused(capsys: pytest.CaptureFixture[str], *arguments: Any) -> str:
    """Run the command line, see it refuse, and return its sentence."""
    assert main([str(argument) for argument in arguments]) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("trainer: ")
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err


def test_a_missing_data_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "trainer prepare digits" in refused(capsys, "train", "digits", "--data", "nowhere")
    assert list(folder.iterdir()) == []


def test_an_empty_data_folder(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "data").mkdir()

    assert "holds no data set" in refused(capsys, "train", "digits", "--data", "data")


def test_train_and_val_with_different_classes(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_photo(folder / "data" / "train" / "cat" / "0.JPEG")
    write_photo(folder / "data" / "val" / "fox" / "0.JPEG")

    assert "trainer prepare data" in refused(capsys, "train", "digits", "--data", "data")
    assert "labels would mean different things" in refused(capsys, "prepare", "folder", "data")
    assert sorted(path.name for path in (folder / "data").iterdir()) == ["train", "val"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["digit"], "did you mean digits?"),
        (["digits"], "recipe digits is for 10 classes and "),
        (["digits"], " has 2; use another recipe, another data set, or --set classes=2"),
        (["rn50-75"], "recipe rn50-75 is for 1,000 classes"),
        (["digits", "--set", "classes=0"], "classes = 0: must be greater than or equal to 1"),
        (["digits", "--set", "optimiser.momentum=0.8"], "did you mean optimizer.momentum?"),
        (["digits", "--set", "epochs=soon"], "must be a valid integer"),
        (
            ["digits", "--set", "classes=2", "--set", "global_batch=1000"],
            "larger than the 20 training images",
        ),
        (
            ["digits", "--set", "classes=2", "--set", "global_batch=9", "--nproc-per-node", "2"],
            "cannot be shared evenly by 2 processes",
        ),
    ],
)
def test_a_recipe_or_setting_that_is_wrong(
    folder: Path, photos: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert says in refused(capsys, "train", *arguments, "--data", photos, "--device", "cpu")
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("more", [[], ["--dry-run"]])
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--set", "optimizer.nesterov=true", "--set", "optimizer.momentum=0"], "optimizer.momentum above 0"),
        (["--set", "epochs=1", "--set", "schedule.warmup_epochs=0.9"], "change schedule.warmup_epochs"),
        (["--set", "seed=18446744073709551616"], "seed = 18446744073709551616: must be less than"),
        (["--set", "seed=-1"], "seed = -1: must be greater"),
        (["--set", "global_batch=1"], "one image at a time"),
        (["--batch-per-gpu", "1"], "one image at a time"),
        (["--set", "global_batch=2", "--nproc-per-node", "2"], "one image at a time"),
        (["--name", "x" * 260], "it is 260 bytes long"),
        (["--set", "registered_model_name=a.b"], "letters, digits, - and _ only; use a-b"),
        (["--set", "registered_model_name=.."], "letters, digits, - and _ only"),
        (["--set", f"registered_model_name={'x' * 300}"], "it is 300 bytes long"),
        (["--set", "ema_decay=0.9", "--set", "ema_steps=1000"], "ema_steps=1000 is more than the 28 steps"),
        (["--set", "model=vit_b_16"], "Wrong image height"),
    ],
)
def test_what_would_fail_later_is_refused_at_the_start(
    folder: Path,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    says: str,
    more: list[str],
) -> None:
    fixed = [
        "--set",
        "classes=2",
        "--set",
        "global_batch=8",
        "--set",
        "model=resnet18",
        "--data",
        photos,
        "--device",
        "cpu",
    ]

    assert says in refused(capsys, "train", "digits", *fixed, *arguments, *more)
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize(
    ("address", "more"),
    [
        ("localhost:5077", []),
        ("localhost:5077", ["--dry-run"]),
        ("localhost:5077", ["--offline"]),
        ('"http://127.0.0.1:9"', ["--offline"]),
        ("./mlruns", ["--dry-run"]),
        ("http://127.0.0.1:9/#/", []),
    ],
)
def test_an_address_that_is_none_is_refused_also_offline(
    folder: Path,
    photos: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    more: list[str],
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    arguments = ["train", "digits", *SMALL, "--data", photos, "--device", "cpu", *more]

    assert "MLFLOW_TRACKING_URI=" in refused(capsys, *arguments)
    assert not list(folder.glob("runs/*"))


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_gpu_that_is_not_there(folder: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = refused(capsys, "train", "digits", *SMALL, "--data", photos, "--device", "cuda")

    assert "--device cpu" in said
    assert "compose.cpu.yaml" in said
    assert list(folder.iterdir()) == []


@pytest.mark.slow
def test_an_mlflow_server_that_does_not_answer(
    folder: Path, photos: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")

    said = refused(capsys, "train", "digits", *SMALL, "--data", photos, "--device", "cpu")
    assert "http://127.0.0.1:9" in said
    assert not list(folder.glob("runs/*"))


@pytest.mark.parametrize("command", ["export", "evaluate"])
def test_a_registered_model_that_does_not_exist(
    folder: Path, photos: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    target = ["--out", "bundle"] if command == "export" else ["--data", photos]

    assert "nothing@candidate" in refused(capsys, command, "models:/nothing@candidate", *target)
    assert not (folder / "bundle").exists()


def test_a_run_folder_that_is_none(folder: Path, photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "empty").mkdir()

    assert "neither a run with checkpoints nor a bundle" in refused(
        capsys, "evaluate", "empty", "--data", photos
    )


@pytest.mark.parametrize("command", ["export", "evaluate"])
def test_a_model_that_is_none_of_the_forms(
    folder: Path, photos: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    target = ["--out", "bundle"] if command == "export" else ["--data", photos]
    said = refused(capsys, command, "foo", *target)

    assert "there is no model foo" in said
    for form in ("models:/NAME@ALIAS", "runs:/RUN_ID", "a run folder", "a checkpoint file", "a bundle"):
        assert form in said


@pytest.mark.parametrize(
    "arguments",
    [
        ("compare", "x" * 300, "y"),
        ("compare", "x", "y", "--runs", "x" * 300),
        ("report", "r", "--against", "x" * 300),
        ("promote", "x" * 300),
        ("mirror", "/", "--restore", "--runs-remote", "."),
        ("mirror", "runs/..", "--restore", "--runs-remote", "."),
    ],
)
def test_a_name_that_no_run_has(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...]
) -> None:
    said = refused(capsys, *arguments)

    assert any(what in said for what in ("File name too long", "there is no", "is not a run", "is no name"))


def test_a_current_folder_that_is_gone(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "gone").mkdir()
    monkeypatch.chdir(folder / "gone")
    (folder / "gone").rmdir()

    assert "the current folder is gone" in refused(capsys, "compare", "a", "b")


def test_an_unknown_command_names_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["trian"])

    assert stopped.value.code == 2
    assert "there is no command 'trian'; did you mean train?" in capsys.readouterr().err


def test_an_unknown_option_is_refused_by_the_parser(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["train", "digits", "--data", "x", "--epochs", "3"])

    assert stopped.value.code == 2
    assert "unrecognized arguments: --epochs 3" in capsys.readouterr().err


def test_a_dry_run_shows_the_plan_and_starts_nothing(
    folder: Path, photos: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [
        "train",
        "rn50-baseline",
        *SMALL,
        "--data",
        str(photos),
        "--device",
        "cpu",
    ]
    assert main([*arguments, "--dry-run"]) == 0

    shown = capsys.readouterr().out
    assert "90 epochs of 2 steps of 8 images" in shown
    assert "1 process(es) with 8 images of each step; as many at a time as the device takes" in shown
    assert "mlflow.db, which the run will make" in shown
    assert list(folder.iterdir()) == []


def test_a_run_that_its_mirror_does_not_have_is_refused_with_those_that_it_has(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "mirror" / "rn50-75-1a2b").mkdir(parents=True)
    (folder / "mirror" / "rn50-75-1a2b" / "lease.json").touch()
    asked = ("mirror", "runs/rn50-75", "--restore", "--runs-remote", folder / "mirror")

    assert "has no run rn50-75; it has rn50-75-1a2b\n" in refused(capsys, *asked)
