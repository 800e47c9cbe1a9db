"""ImageNet as it lies on a disk that nothing is written to: checked, measured, trained on, evaluated, repaired."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.calls import Captured, output_of
from tests.cli.conftest import ROOT, SETTINGS, SMALL
from tests.conftest import write_photo
from tests.dataset import published

EACH = 12  # training images a class


# What is mounted so is so for this process alone, and gone with it.
READ_ONLY = 'mount --bind "$0" "$0" && mount -o remount,ro,bind "$0" && exec "$@"'


@pytest.fixture(scope="module")
def disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Kaggle's folders."""
    root = tmp_path_factory.mktemp("disk")
    folders = root / "ILSVRC" / "Data" / "CLS-LOC"
    for seed, (name, wnid) in enumerate(published.train_names(each=EACH).items()):
        write_photo(folders / "train" / wnid / name, seed=seed)
    for seed, name in enumerate(published.val_names(each=3)):
        write_photo(folders / "val" / name, seed=500 + seed)
    if subprocess.run(["unshare", "--mount", "sh", "-c", READ_ONLY, root, "true"]).returncode:
        pytest.skip("only root can mount a folder for reading only")
    return root


def on_disk(disk: Path, *arguments: Any, folder: Path, code: int = 0) -> tuple[str, str]:
    """What a command prints to whose process the disk is mounted so that not even root can write."""
    trainer = ["unshare", "--mount", "sh", "-c", READ_ONLY, disk, sys.executable, "-m", "trainer"]
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    env.pop("MLFLOW_TRACKING_URI", None)
    done = subprocess.run(
        [*map(str, [*trainer, *arguments])], cwd=folder, env=env, text=True, capture_output=True, timeout=300
    )
    assert done.returncode == code, done.stderr
    return done.stdout, done.stderr


@pytest.fixture(scope="module")
def manifest(disk: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("manifest")
    said = on_disk(disk, "prepare", disk, "--manifest", out, folder=out)[0]
    assert f"imagenet in {out}, its images in {disk}" in said
    return out


def test_a_disk_that_cannot_be_written_is_met_with_what_can_be_done(disk: Path, tmp_path: Path) -> None:
    said = on_disk(disk, "prepare", disk, folder=tmp_path, code=2)[1].splitlines()[-1]

    assert "Read-only file system" in said
    assert "for the manifest with --manifest or for a copy with --out" in said


def test_bad_files_that_are_not_ours_to_move_are_named_and_left(tmp_path: Path, capsys: Captured) -> None:
    root = published.imagenet_folders(tmp_path / "own", flat=True)
    output_of(capsys, "prepare", root, "--manifest", tmp_path / "m")
    bad = root / "val" / next(iter(published.val_names()))
    bad.write_bytes(b"x")

    _, err = output_of(capsys, "check", tmp_path / "m", "--quarantine", code=2)

    assert f"{bad.name} has 1 bytes" in err
    assert f"trainer: the images of {tmp_path / 'm'} lie in {root}, where nothing is moved; restore" in err
    assert bad.exists()


@pytest.mark.slow
def test_it_is_checked_trained_on_and_evaluated_where_it_lies(
    disk: Path, manifest: Path, tmp_path: Path
) -> None:
    checked = json.loads(on_disk(disk, "check", manifest, "--decode", "--json", folder=tmp_path)[0])
    assert (checked["findings"], checked["counts"]["train"], checked["counts"]["val"]) == ([], 36, 9)

    data = ["--data", manifest, "--device", "cpu", "--json"]
    tiny = [*SETTINGS, *SMALL, "--no-report", "--no-export"]
    trained = json.loads(on_disk(disk, "train", "digits", *tiny, *data, folder=tmp_path)[0])
    assert trained["num_images"] == 9

    run = next((tmp_path / "runs").glob("digits-*"))
    evaluated = json.loads(on_disk(disk, "evaluate", run, *data, "--per-class", folder=tmp_path)[0])
    assert evaluated["top1"] == trained["top1"]
    assert "tench" in {one["name"].partition(",")[0] for one in evaluated["classes"]}


@pytest.mark.slow
def test_loaders_are_measured_where_it_lies(disk: Path, manifest: Path, tmp_path: Path) -> None:
    small = [
        "--batch-size",
        "4",
        "--images",
        "8",
        "--rounds",
        "1",
        "--only=dali_reader",
        "--only=torchvision",
    ]
    measured = on_disk(
        disk, "bench", "loader", manifest, *small, "--shorter-side", "40", "--json", folder=tmp_path
    )[0]

    assert {"trainer", "dali_reader", "torchvision"} <= json.loads(measured)["median"].keys()
