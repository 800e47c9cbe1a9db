"""`trainer prepare` and `trainer check` as they are typed."""

import json
import shutil

import pytest

from tests.conftest import write_odd_files
from tests.dataset import published
from trainer.cli import main


def said(capsys, *arguments, code=0):
    """What a command prints, and what it complains about."""
    assert main([str(argument) for argument in arguments]) == code
    return capsys.readouterr()


def sentence(capsys, *arguments):
    out, err = said(capsys, *arguments, code=2)
    lines = [line for line in err.splitlines() if line.startswith("trainer: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in out + err
    return lines[0]


@pytest.fixture
def root(photos, tmp_path):
    return shutil.copytree(photos, tmp_path / "photos")


def test_prepare_tells_what_came_out_and_does_nothing_the_second_time(tmp_path, capsys):
    arguments = ["prepare", "imagenette", published.fastai(tmp_path), "--no-md5", "--size", "320"]
    arguments += ["--out", tmp_path / "out"]

    assert "12 to train, 6 to validate, 3 classes" in said(capsys, *arguments).out
    arguments[2].unlink()  # it is not needed any more
    assert said(capsys, *arguments).out == f"imagenette: already complete in {tmp_path / 'out'}\n"
    told = json.loads(said(capsys, *arguments, "--json").out)
    assert (told["made"], told["counts"]) == (False, {"train": 12, "val": 6})


def test_a_data_set_is_prepared_checked_and_listed_as_published_or_not(tmp_path, capsys):
    archives = published.imagenet(tmp_path)
    said(capsys, "prepare", "imagenet", *archives, "--no-md5", "--out", tmp_path / "out")

    out = said(capsys, "check", tmp_path / "out", "--decode").out

    assert "3, from 4 (n01440764) to 4 (n01440764) training images" in out
    assert "0 bad, 0 damaged but decodable, 0 unusual but handled" in out


def test_making_images_smaller_is_part_of_what_is_there(tmp_path, capsys):
    arguments = ["prepare", "kaggle", published.kaggle_tar(tmp_path), "--out", tmp_path / "out"]
    said(capsys, *arguments, "--shorter-side", "40")
    arguments[2].unlink()

    assert "already complete" in said(capsys, *arguments, "--shorter-side", "40").out
    assert "already holds the data set imagenet (shorter_side 40, quality 90)" in sentence(capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["kaggle", "nowhere.zip", "--out", "x"], "there is no archive nowhere.zip"),
        (["imagenet", "nowhere.tar", "nowhere.tar", "--out", "x"], "there is no archive nowhere.tar"),
        (["folder", "nowhere"], "there is no folder nowhere"),
        (["folder", ".", "--shorter-side", "400"], "say with --out where the smaller ones go"),
        (["kaggle", "http://127.0.0.1:1/x.zip", "--out", "."], "is not empty"),
    ],
)
def test_what_cannot_be_prepared_is_said_and_nothing_is_left_behind(
    tmp_path, monkeypatch, capsys, arguments, says
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis.tex").write_text("years of work")

    assert says in sentence(capsys, "prepare", *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_bad_files_are_named_with_the_command_that_moves_them_out(root, capsys):
    bad = root / "train" / "dog" / "001.JPEG"
    data = bad.read_bytes()
    bad.write_bytes(data[:200] + bytes(len(data) - 200))

    told = sentence(capsys, "check", root, "--decode")
    assert told.endswith(f"move them out with: trainer check {root} --decode --quarantine")
    assert "0 bad" in said(capsys, "check", root).out  # of the same length: only reading it tells

    out, err = said(capsys, "check", root, "--decode", "--quarantine")
    assert "train/dog/001.JPEG has changed since it was prepared" in err
    assert "moved to quarantine/" in out
    assert "19 to train" in said(capsys, "check", root, "--decode").out


def test_unusual_images_are_no_error(tmp_path, capsys):
    for part in ("train", "val"):
        write_odd_files(tmp_path / "odd" / part / "c")
    said(capsys, "prepare", "folder", tmp_path / "odd")

    findings = json.loads(said(capsys, "check", tmp_path / "odd", "--decode", "--json").out)["findings"]

    assert {finding["kind"] for finding in findings} == {"handled"}
    assert len(findings) == 6


def test_the_stopped_training_says_how_to_go_on(root, capsys, tmp_path, monkeypatch):
    """A file that goes bad afterwards: the run ends with its name, and goes on when it is mended."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings = [
        "epochs=2",
        "global_batch=8",
        "batch_per_gpu=8",
        "schedule.warmup_epochs=1",
        "preprocess.train_size=32",
    ]
    settings += ["preprocess.val_size=32", "preprocess.val_resize=32"]
    arguments = ["train", "digits", *[word for one in settings for word in ("--set", one)], "--data", root]
    val = root / "val" / "cat" / "004.JPEG"
    good = val.read_bytes()
    val.write_bytes(good[:-5])

    told = sentence(capsys, *arguments, "--device", "cpu")

    assert f"{val} has {len(good) - 5:,} bytes and was prepared with {len(good):,}" in told
    assert "trainer check --quarantine" in told
