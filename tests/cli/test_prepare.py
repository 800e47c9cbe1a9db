"""`trainer prepare` as it is typed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.calls import Captured, error_of, output_of
from tests.cli.conftest import command
from tests.conftest import write_photo
from tests.dataset import published
from trainer.cli import main
from trainer.dataset import FORMS

# A new flag takes a decision: it is added here as well.
COMMON = "--json --out --workers"
RESIZE = "--quality --shorter-side"
FLAGS = {
    "imagenet": f"{COMMON} {RESIZE} --devkit --downloads --no-md5",
    "kaggle": f"{COMMON} {RESIZE} --downloads",
    "huggingface": f"{COMMON} {RESIZE} --downloads --partial --revision",
    "imagenette": f"{COMMON} {RESIZE} --downloads --no-md5 --size",
    "imagewoof": f"{COMMON} {RESIZE} --downloads --no-md5 --size",
    "tiny-imagenet": f"{COMMON} --downloads --no-md5",
    "digits": COMMON,
    "folder": f"{COMMON} {RESIZE} --manifest --name --seed --val-fraction",
}


@pytest.mark.parametrize("form", [form.name for form in FORMS])
def test_each_form_has_its_flags_and_help_with_an_example_of_itself(form: str, capsys: Captured) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["prepare", form, "--help"])
    shown = capsys.readouterr().out

    assert f"example:  trainer prepare {form}" in shown
    options = shown[shown.index("\noptions:") : shown.index("\nexample:")]
    flags = {line.split()[0] for line in options.splitlines() if line.startswith("  --")}
    assert flags == set(FLAGS[form].split())


def test_the_result_is_shown_and_nothing_is_done_the_second_time(tmp_path: Path, capsys: Captured) -> None:
    archive = published.fastai(tmp_path)
    arguments: list[Any] = ["prepare", "imagenette", archive, "--no-md5", "--size", "320"]
    arguments += ["--out", tmp_path / "out"]

    assert "12 to train, 6 to validate, 3 classes" in output_of(capsys, *arguments)[0]
    archive.unlink()  # it is not needed any more
    out, err = output_of(capsys, *arguments)
    assert out == f"imagenette: already complete in {tmp_path / 'out'}\n"
    assert err.startswith(
        "warning: published are 9,469 and 3,925 images; 3 classes of ImageNet, 3,888 of 3,900"
    )
    result = json.loads(output_of(capsys, *arguments, "--json")[0])
    assert (result["made"], result["counts"]) == (False, {"train": 12, "val": 6})


def test_making_images_smaller_is_part_of_what_is_there(tmp_path: Path, capsys: Captured) -> None:
    archive = published.kaggle_tar(tmp_path)
    arguments = ["prepare", "kaggle", archive, "--out", tmp_path / "out"]
    output_of(capsys, *arguments, "--shorter-side", "40")
    archive.unlink()

    assert "already complete" in output_of(capsys, *arguments, "--shorter-side", "40")[0]
    assert "already holds the data set imagenet (shorter_side 40, quality 90)" in error_of(capsys, *arguments)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["kaggle", "nowhere.zip", "--out", "x"], "there is no archive nowhere.zip"),
        (["imagenet", "nowhere.tar", "nowhere.tar", "--out", "x"], "there is no archive nowhere.tar"),
        (["folder", "nowhere"], "there is no folder nowhere"),
        (["folder", ".", "--shorter-side", "400"], "name a folder for the smaller ones with --out"),
        (["kaggle", "http://127.0.0.1:1/x.zip", "--out", "."], "is not empty"),
    ],
)
def test_what_cannot_be_prepared_is_said_and_nothing_is_left_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured, arguments: list[str], says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "thesis.tex").write_text("years of work")

    assert says in error_of(capsys, "prepare", *arguments)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_what_was_guessed_is_shown(tmp_path: Path, capsys: Captured) -> None:
    for name in ("ant", "[bold]bee", "caf\udce9"):
        for number in range(5):
            write_photo(tmp_path / name / f"{number}.jpg", seed=number)
    (tmp_path / "ant" / "x.tif").write_text("x")
    arguments = ["prepare", "folder", tmp_path, "--val-fraction", "0.2"]

    out, err = output_of(capsys, *arguments)
    assert "12 to train, 3 to validate, 3 classes" in out
    assert "[bold]bee, ant, caf\\xe9" in out
    assert "0.2 of each class validates, chosen with seed 0" in out
    assert "are training images too" in out
    assert "ignored: 1 .tif, e.g. ant/x.tif" in err

    result = json.loads(output_of(capsys, *arguments, "--json")[0])
    assert result["classes"] == ["[bold]bee", "ant", "caf\udce9"]
    assert [(one["ending"], one["files"]) for one in result["ignored"]] == [(".tif", 1)]
    assert len(result["warnings"]) == 1


@pytest.mark.parametrize("fraction", [[], ["--val-fraction", "0.2"]], ids=["train and val", "split"])
def test_a_data_set_is_the_same_in_every_locale(
    tmp_path: Path, capsys: Captured, fraction: list[str]
) -> None:
    own = tmp_path / "own"
    for seed, split in enumerate([""] if fraction else ["train", "val"]):
        for name in ("café", "猫", "caf\udce9"):
            for number in range(3):
                write_photo(own / split / name / f"é {number}.jpg", seed=number + 10 * seed)
    arguments = ["prepare", "folder", own, *fraction, "--json"]
    here = json.loads(output_of(capsys, *arguments, "--out", tmp_path / "here")[0])

    ascii_only = {"PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "LC_ALL": "C"}
    process = command(*arguments, "--out", tmp_path / "there", folder=tmp_path, **ascii_only)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err

    assert {**json.loads(out), "data": here["data"]} == here


def test_images_added_later_are_taken_in_by_the_same_command(tmp_path: Path, capsys: Captured) -> None:
    for split in ("train", "val"):
        write_photo(tmp_path / split / "a" / "0.jpg")
    output_of(capsys, "prepare", "folder", tmp_path)
    for split in ("train", "val"):
        write_photo(tmp_path / split / "b" / "0.jpg", seed=1)

    assert "2 images are new, 0 are no more" in output_of(capsys, "prepare", "folder", tmp_path)[0]
    assert "already complete" in output_of(capsys, "prepare", "folder", tmp_path)[0]


def test_what_is_at_a_path_is_said_and_done(tmp_path: Path, capsys: Captured) -> None:
    root = published.imagenet_folders(tmp_path / "imagenet", flat=True)
    out, err = output_of(capsys, "prepare", root)
    assert err.splitlines()[0] == (
        "found: ImageNet, 3 classes, in train/ and val/, which is flat and has known labels; the images stay where "
        f"they are, the manifest is in {root} (trainer prepare folder)"
    )
    assert f"imagenet in {root}" in out

    archive = published.fastai(tmp_path)
    archive.rename(tmp_path / "data.tgz")
    arguments = ["prepare", tmp_path / "data.tgz", "--no-md5", f"--out={tmp_path / 'out'}", "--json"]
    out, err = output_of(capsys, *arguments)
    assert "found: Imagenette, 10 classes, in its archive; the images go to" in err
    there, here = json.loads(out), json.loads(output_of(capsys, "prepare", root, "--json")[0])
    assert (there["made"], here["made"]) == (True, False)
    assert there["digest"] == here["digest"]


def test_an_archive_needs_a_place_for_its_images(tmp_path: Path, capsys: Captured) -> None:
    archive = published.kaggle_zip(tmp_path)

    assert "say with --out DIR where the images shall go" in error_of(capsys, "prepare", archive)
    assert list(tmp_path.iterdir()) == [archive]


def test_a_second_path_is_the_other_of_the_two_tars_or_refused(tmp_path: Path, capsys: Captured) -> None:
    train, val = published.imagenet(tmp_path)

    assert "12 to train" in output_of(capsys, "prepare", val, train, "--no-md5", "--out", tmp_path / "out")[0]
    said = error_of(capsys, "prepare", val, "more.tar", "--out", tmp_path / "out")
    assert "more.tar is a second path; give one, or name the form: trainer prepare imagenet" in said


def test_a_manifest_alone_leaves_the_images_where_they_are(tmp_path: Path, capsys: Captured) -> None:
    root = published.imagenet_folders(tmp_path / "imagenet", flat=True)
    before = sorted(root.rglob("*"))
    out, err = output_of(capsys, "prepare", root, "--manifest", tmp_path / "m")

    assert f"the manifest is in {tmp_path / 'm'}" in err
    assert f"imagenet in {tmp_path / 'm'}, its images in {root}" in out
    assert sorted(root.rglob("*")) == before
    assert {path.suffix for path in (tmp_path / "m").iterdir()} == {".json", ".npy"}
    assert "give one of the two" in error_of(capsys, "prepare", root, "--manifest", "m", "--out", "o")
    said = error_of(capsys, "prepare", root, "--manifest", tmp_path / "m", "--shorter-side", "9")
    assert "name a folder for the smaller ones with --out" in said


def test_a_folder_named_like_a_form_is_told_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured
) -> None:
    monkeypatch.chdir(tmp_path)
    published.imagenet_folders(tmp_path / "kaggle")

    with pytest.raises(SystemExit, match="2"):
        main(["prepare", "kaggle"])
    assert (
        "note: kaggle is a form here; ./kaggle is the file or folder of that name" in capsys.readouterr().err
    )
    assert "3 classes" in output_of(capsys, "prepare", "./kaggle")[0]
    assert "did you mean kaggle?" in error_of(capsys, "prepare", "kagle", "x.zip")


def test_the_help_of_a_path_is_that_of_its_form(tmp_path: Path, capsys: Captured) -> None:
    published.imagenet_folders(tmp_path)
    with pytest.raises(SystemExit, match="0"):
        main(["prepare", str(tmp_path), "--help"])

    assert "usage: trainer prepare folder" in capsys.readouterr().out


def test_a_folder_given_as_an_archive_is_called_a_folder(tmp_path: Path, capsys: Captured) -> None:
    said = error_of(capsys, "prepare", "kaggle", tmp_path, "--out", tmp_path / "out")
    assert f"{tmp_path} is a folder, not an archive" in said
    assert f"trainer prepare folder {tmp_path}" in said


def test_skipped_files_are_named(tmp_path: Path, capsys: Captured) -> None:
    for split in ("train", "val"):
        (tmp_path / split / "a").mkdir(parents=True)
        (tmp_path / split / "a" / "0.jpg").write_bytes(published.jpeg(0))
    (tmp_path / "train" / "a" / "1.jpg").touch()

    out, err = output_of(capsys, "prepare", "folder", tmp_path)

    assert "skipped: train/a/1.jpg is empty" in err
    assert f"1 files, all listed in {tmp_path / 'dataset.json'}" in out
    result = json.loads(output_of(capsys, "prepare", "folder", tmp_path, "--json")[0])
    assert result["skipped"] == [["train/a/1.jpg", "is empty"]]


@pytest.mark.parametrize("seed", ["-1", "x", "1.5"])
def test_a_seed_that_numpy_does_not_take_is_refused_in_words(
    tmp_path: Path, capsys: Captured, seed: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["prepare", "folder", str(tmp_path), "--val-fraction", "0.1", f"--seed={seed}"])

    assert f"argument --seed: {seed!r} is not a whole number of at least 0" in capsys.readouterr().err
