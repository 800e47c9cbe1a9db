"""A published set with a gap: told by `prepare` and `check`, refused by training unless --partial says it is meant."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.cli.calls import Captured, error_of, output_of
from tests.cli.conftest import SETTINGS, SMALL, command
from tests.dataset import published
from trainer.dataset.forms._imagenet_labels import published_sets

WNIDS = tuple(published_sets()["imagenette"])


@pytest.fixture(scope="session")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All ten classes of Imagenette, with two training images and one validation image each."""
    root = tmp_path_factory.mktemp("reduced") / "imagenette"
    for seed, wnid in enumerate(WNIDS):
        for number in range(3):
            path = root / ("val" if number == 2 else "train") / wnid / f"{wnid}_{number}.JPEG"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(published.jpeg(3 * seed + number))
    return root


@pytest.fixture
def root(prepared: Path, tmp_path: Path) -> Path:
    return shutil.copytree(prepared, tmp_path / "imagenette")


SAID = (
    "not Imagenette as published: 9,449 of 9,469 training images are missing (n02979186 has 2 of 993, n01440764 has "
    "2 of 963, n03417042 has 2 of 961, and 7 more classes); 3,915 of 3,925 validation images are missing "
    "(n03425413 has 1 of 419, n03028079 has 1 of 409, n03445777 has 1 of 399, and 7 more classes)"
)


def test_prepare_and_check_name_the_shortfall_the_worst_classes_first(root: Path, capsys: Captured) -> None:
    out, _ = output_of(capsys, "prepare", "folder", root)
    assert SAID in out
    assert "as published" not in out.replace(SAID, "")

    assert SAID in output_of(capsys, "check", root)[0]


def test_json_has_each_class_expected_and_found(root: Path, capsys: Captured) -> None:
    made = json.loads(output_of(capsys, "prepare", "folder", root, "--json")[0])
    checked = json.loads(output_of(capsys, "check", root, "--json")[0])

    for found in (made, checked):
        assert found["published"] == {
            "name": "Imagenette",
            "whole": True,
            "complete": False,
            "train": {"expected": 9469, "found": 20, "missing": 9449, "extra": 0, "skipped": 0},
            "val": {"expected": 3925, "found": 10, "missing": 3915, "extra": 0, "skipped": 0},
            "misplaced": 0,
        }
        assert list(found["per_class"]) == sorted(WNIDS)
        assert found["per_class"]["n03000684"] == {
            "train": {"expected": 858, "found": 2, "skipped": 0},
            "val": {"expected": 386, "found": 1, "skipped": 0},
        }
    assert checked["duplicates"] == {"train": 0, "val": 0, "between": 0}


def test_of_a_users_own_classes_json_has_what_was_found(photos: Path, capsys: Captured) -> None:
    checked = json.loads(output_of(capsys, "check", photos, "--json")[0])

    assert checked["published"] is None
    assert checked["per_class"]["cat"] == {
        "train": {"expected": None, "found": 10, "skipped": None},
        "val": {"expected": None, "found": 5, "skipped": None},
    }


def test_files_in_the_wrong_class_and_copies_are_named(root: Path, capsys: Captured) -> None:
    first, last = WNIDS[0], WNIDS[-1]
    (root / "train" / first / f"{first}_0.JPEG").rename(root / "train" / last / f"{first}_0.JPEG")
    shutil.copy(root / "train" / last / f"{last}_1.JPEG", root / "val" / last / f"{last}_7.JPEG")
    prepared, _ = output_of(capsys, "prepare", "folder", root)

    out, err = output_of(capsys, "check", root)

    assert f"misplaced: train/{last}/{first}_0.JPEG belongs to {first} by its name" in err
    assert "duplicates  1 of train in val, byte for byte" in out
    for said in (prepared, out):
        assert "1 image(s) are in another class than their names say" in said
        assert "1 of 11 validation images are training images too, byte for byte" in said
    found = json.loads(output_of(capsys, "check", root, "--json")[0])
    assert [one["kind"] for one in found["findings"]] == ["misplaced"]
    assert (found["published"]["misplaced"], found["duplicates"]["between"]) == (1, 1)


@pytest.mark.parametrize("asked", [["train", "digits"], ["find-lr", "digits"], ["evaluate", "digits"]])
def test_a_gap_is_refused_in_a_sentence_before_anything_is_made(
    root: Path, tmp_path: Path, capsys: Captured, monkeypatch: pytest.MonkeyPatch, asked: list[str]
) -> None:
    output_of(capsys, "prepare", "folder", root)
    monkeypatch.chdir(tmp_path)
    settings = SETTINGS if asked[0] != "evaluate" else []

    said = error_of(capsys, *asked, *settings, "--data", root)

    missing = SAID.partition(": ")[2] if asked[0] != "evaluate" else SAID.rpartition("; ")[2]
    assert said.startswith(
        f"trainer: {root} is not Imagenette as published: {missing}; prepare it again from all"
    )
    assert said.endswith("or use it as it is with --partial")
    assert not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_partial_trains_it_and_mlflow_says_what_is_missing(
    root: Path, tmp_path: Path, capsys: Captured
) -> None:
    from mlflow import MlflowClient

    output_of(capsys, "prepare", "folder", root)
    arguments = [
        "train",
        "digits",
        *SETTINGS,
        *SMALL,
        "--no-report",
        "--no-export",
        "--data",
        root,
        "--device",
        "cpu",
        "--partial",
        "--json",
    ]

    process = command(
        *arguments, "--nproc-per-node", 2, folder=tmp_path
    )  # the processes are started with it too
    out, err = process.communicate(timeout=300)

    assert process.returncode == 0, err
    result: dict[str, Any] = json.loads(out)
    run = MlflowClient(f"sqlite:///{tmp_path}/runs/mlflow.db").get_run(result["run_id"])
    (dataset,) = run.inputs.dataset_inputs
    assert json.loads(dataset.dataset.profile)["completeness"] == SAID
    assert run.data.tags["dataset_completeness"] == SAID
    assert f"20 train, 10 val, 10 classes; {SAID}" in run.data.tags["mlflow.note.content"]
    assert json.loads((tmp_path / result["run"] / "dataset.json").read_text())["completeness"] == SAID
    process = command("evaluate", result["model"], "--data", root, "--partial", "--json", folder=tmp_path)
    assert json.loads(process.communicate(timeout=300)[0])["num_images"] == 10
