"""`python -m benchmarks.learning`."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.learning import SETS, Training, difference, differences, main, run_training, show
from benchmarks.photo_sets import make_photo_set
from benchmarks.training_programs import PROGRAMS, Columns

TRIAL = SETS["digits"]  # two epochs of two batches
SPREAD = np.array([[0.50, 0.61], [0.52, 0.58], [0.48, 0.60], [0.51, 0.62], [0.49, 0.59]])


def training(program: str, seed: int) -> Training:
    row = SPREAD[seed].tolist()
    return Training(program, seed, TRIAL, 1.0, Columns([0.02, 0.002], row, row, None))


def test_the_same_trainings_do_not_differ() -> None:
    gap = difference("one", "other", "val_top1", SPREAD, SPREAD[::-1])

    assert gap.difference == pytest.approx(0)
    assert gap.effect == pytest.approx(0)
    assert gap.p == gap.p_epochs == 1
    assert gap.overlap


def test_trainings_that_are_all_better_differ() -> None:
    gap = difference("one", "other", "val_top1", SPREAD + 0.1, SPREAD)

    assert gap.difference == pytest.approx(0.1)
    assert gap.difference_95[0] < 0.1 < gap.difference_95[1]
    # The tests' standard deviation is sqrt(0.00025); Hedges' factor for 8 degrees of freedom is 1 - 3 / 31.
    assert gap.effect == pytest.approx(0.1 / 0.00025**0.5 * (1 - 3 / 31))
    assert gap.p == gap.p_epochs == 2 / 252  # of 252 ways to share them out, this one and its mirror image
    assert not gap.overlap


def test_a_difference_in_an_early_epoch_is_seen() -> None:
    early = np.add(SPREAD, [0.1, 0])
    gap = difference("one", "other", "train_loss", early, SPREAD)

    assert gap.p == 1
    assert gap.p_epochs == 2 / 252
    assert not gap.overlap


def test_each_two_programs_are_compared_in_what_both_measure(capsys: pytest.CaptureFixture[str]) -> None:
    trainings = [training(program, seed) for program in ("trainer", "torchvision") for seed in range(5)]
    found = differences(trainings)
    show(trainings, found)

    assert [gap.measure for gap in found] == ["val_top1", "train_loss"]
    said = capsys.readouterr().out
    assert "learning rates are the same in all trainings" in said
    assert "| val_top1 | trainer, torchvision |" in said


def test_timms_summary_is_read(tmp_path: Path) -> None:
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "summary.csv").write_text(
        "epoch,train_loss,eval_loss,eval_top1,eval_top5,lr\n"
        "0,2.4991,3.4353,4.6875,54.6875,0.02\n1,2.3521,2.7757,15.625,62.5,0.002\n"
    )
    said = PROGRAMS["timm"].said(TRIAL, tmp_path, "")

    assert said == Columns([0.02, 0.002], [2.4991, 2.3521], [0.046875, 0.15625], [3.4353, 2.7757])


def test_torchvisions_lines_are_read(tmp_path: Path) -> None:
    epochs = "".join(
        f"Epoch: [{epoch}]  [0/2]  eta: 0:00:05  lr: {lr}  img/s: 9.1  loss: 2.4 (2.4)  acc1: 3.1 (3.1)\n"
        f"Epoch: [{epoch}]  [1/2]  eta: 0:00:01  lr: {lr}  img/s: 9.9  loss: 2.4 ({loss})  acc1: 6.2 (4.6)\n"
        f"Epoch: [{epoch}] Total time: 0:00:07\n"
        "Test:   [1/2]  eta: 0:00:00  loss: 3.0102 (3.0318)  acc1: 9.3 (10.9)  acc5: 50.0 (51.5)\n"
        f"Test:  Acc@1 {top1} Acc@5 51.562\n"
        for epoch, lr, loss, top1 in [(0, 0.02, 2.5188, 10.938), (1, 0.002, 2.4668, 15.625)]
    )
    said = PROGRAMS["torchvision"].said(TRIAL, tmp_path, epochs)

    assert said == Columns([0.02, 0.002], [2.5188, 2.4668], [0.10938, 0.15625], None)


def test_what_is_kept_of_other_settings_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits" / "trainer-0.json").write_text(json.dumps({"settings": {"epochs": 3}}))

    assert main(["digits", "--out", str(tmp_path), "--seeds", "1"]) == 2
    assert "trainer-0.json is of other settings" in capsys.readouterr().err


def test_stamps_are_on_white_in_folders_of_their_class(tmp_path: Path) -> None:
    for name, count in (("animals", 30), ("food", 40), ("medical", 29)):
        folder = tmp_path / "usr" / "share" / "tuxpaint" / "stamps" / name / "deeper"
        folder.mkdir(parents=True)
        for number in range(count):
            Image.new("RGBA", (600, 300), (255, 0, 0, 0)).save(folder / f"{number}.png")
    made = tmp_path / "photos"
    make_photo_set("stamps", tmp_path, made, train=48, val=100)
    splits = {name: sorted((made / name).rglob("*.jpeg")) for name in ("train", "val")}

    assert [len(paths) for paths in splits.values()] == [48, 22]
    assert {path.parent.name for paths in splits.values() for path in paths} == {"animals", "food"}
    with Image.open(splits["train"][0]) as stamp:
        assert stamp.size == (256, 128)
        assert stamp.getpixel((0, 0)) == (255, 255, 255)


def test_a_folder_without_the_package_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["fashion", "--photos", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "has 0 pictures of fashion, more than 3200 are needed" in capsys.readouterr().err


@pytest.mark.slow
def test_a_training_is_kept_and_not_repeated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["digits", "--out", str(tmp_path), "--seeds", "1", "--json"]
    assert main(arguments) == 0
    first = json.loads(capsys.readouterr().out)
    (kept,) = first["trainings"]

    assert [round(lr, 9) for lr in kept["columns"]["lr"]] == [0.02, 0.002]
    assert {len(column) for column in kept["columns"].values()} == {TRIAL.epochs}
    assert not (tmp_path / "digits" / "trainer-0").exists()

    again = run_training("trainer", 0, TRIAL, tmp_path / "digits", Path.cwd())
    assert again.columns._asdict() == kept["columns"]
    assert again.seconds == kept["seconds"]
