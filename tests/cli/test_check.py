"""`trainer check` as it is typed, and the training that asks for it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.calls import Captured, error_of, output_of
from tests.conftest import write_odd_files
from tests.dataset import published


@pytest.fixture
def root(photos: Path, tmp_path: Path) -> Path:
    return shutil.copytree(photos, tmp_path / "photos")


def test_a_prepared_data_set_is_checked_and_its_classes_are_counted(tmp_path: Path, capsys: Captured) -> None:
    archives = published.imagenet(tmp_path)
    output_of(capsys, "prepare", "imagenet", *archives, "--no-md5", "--out", tmp_path / "out")

    out, _ = output_of(capsys, "check", tmp_path / "out", "--decode")

    assert "3, from 4 (n01440764) to 4 (n01440764) training images" in out
    assert "0 bad, 0 damaged but decodable, 0 unusual but handled" in out


def test_bad_files_are_named_with_the_command_that_moves_them_out(root: Path, capsys: Captured) -> None:
    bad = root / "train" / "dog" / "001.JPEG"
    data = bad.read_bytes()
    bad.write_bytes(data[:200] + bytes(len(data) - 200))

    said = error_of(capsys, "check", root, "--decode")
    assert said.endswith(f"move them out with: trainer check {root} --decode --quarantine")
    assert "0 bad" in output_of(capsys, "check", root)[0]  # of the same length: only decoding finds it

    out, err = output_of(capsys, "check", root, "--decode", "--quarantine")
    assert "train/dog/001.JPEG has changed since it was prepared" in err
    assert "moved to quarantine/" in out
    assert "19 to train" in output_of(capsys, "check", root)[0]


def test_findings_are_shown_also_where_the_bad_files_cannot_be_moved_out(
    root: Path, capsys: Captured
) -> None:
    shutil.rmtree(root / "val" / "dog")

    out, err = output_of(capsys, "check", root, "--quarantine", code=2)
    assert "bad: val/dog/001.JPEG cannot be read" in err
    assert "4 bad" in out
    assert "val lacks (dog)" in err

    out, _ = output_of(capsys, "check", root, "--quarantine", "--json", code=2)
    assert len(json.loads(out)["findings"]) == 4
    assert json.loads(out)["quarantined"] is False


def test_classes_warnings_and_ignored_files_are_shown(root: Path, capsys: Captured) -> None:
    (root / "val" / "dog" / "x.tif").write_text("x")
    shutil.copytree(root / "train" / "cat", root / "train" / "cow [new]")

    out, err = output_of(capsys, "check", root)
    assert "training images: cat, dog" in out
    assert "10 not in the manifest, 0 skipped, 1 ignored" in out
    assert "cow [new], a class that the manifest does not have" in err
    assert "ignored: 1 .tif, e.g. val/dog/x.tif: they have not the ending of a JPEG, PNG or WebP" in err

    found = json.loads(output_of(capsys, "check", root, "--json")[0])
    assert [(one["ending"], one["files"]) for one in found["ignored"]] == [(".tif", 1)]
    assert found["warnings"] == []


def test_unusual_images_are_no_error(tmp_path: Path, capsys: Captured) -> None:
    for split in ("train", "val"):
        write_odd_files(tmp_path / "odd" / split / "c")
    output_of(capsys, "prepare", "folder", tmp_path / "odd")

    out, _ = output_of(capsys, "check", tmp_path / "odd", "--decode", "--json")
    findings = json.loads(out)["findings"]

    assert {finding["kind"] for finding in findings} == {"handled"}
    assert len(findings) == 6


def test_the_stopped_training_says_how_to_go_on(
    root: Path, capsys: Captured, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that goes bad afterwards: the run ends with its name, and goes on when it is mended."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    settings = [
        "classes=null",
        "epochs=2",
        "global_batch=8",
        "schedule.warmup_epochs=1",
        "preprocess.train_size=32",
    ]
    settings += ["preprocess.val_size=32", "preprocess.val_resize=32"]
    arguments = ["train", "digits", *[word for one in settings for word in ("--set", one)], "--data", root]
    arguments += ["--batch-per-gpu", 8, "--device", "cpu"]
    val = root / "val" / "cat" / "004.JPEG"
    good = val.read_bytes()
    val.write_bytes(good[:-5])

    said = error_of(capsys, *arguments)

    assert f"{val} has {len(good) - 5:,} bytes and was prepared with {len(good):,}" in said
    assert "trainer check --quarantine" in said
