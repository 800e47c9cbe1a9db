"""Files that went missing, changed or appeared since the data set was prepared."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import write_photo
from tests.dataset.conftest import small_tmpfs
from trainer.dataset import Ignored, check_files, folder, open_dataset, prepare, quarantine
from trainer.errors import DataError


@pytest.fixture
def root(photos: Path, tmp_path: Path) -> Path:
    return shutil.copytree(photos, tmp_path / "photos")


def test_a_sound_data_set_has_no_findings(root: Path) -> None:
    counted: list[int] = []

    assert list(check_files(open_dataset(root), progress=counted.append)) == []
    assert sum(counted) == 29


def test_each_file_that_is_not_as_it_was_is_named(root: Path) -> None:
    dogs = root / "train" / "dog"
    (dogs / "001.JPEG").unlink()
    (dogs / "003.JPEG").write_bytes(b"x")
    write_photo(dogs / "new.JPEG")
    (dogs / "notes.txt").write_text("x")

    found = {(one.path, one.kind): one.reason for one in check_files(open_dataset(root))}

    assert found.keys() == {
        ("train/dog/001.JPEG", "bad"),
        ("train/dog/003.JPEG", "bad"),
        ("train/dog/new.JPEG", "unlisted"),
    }
    assert found["train/dog/001.JPEG", "bad"] == "cannot be read: No such file or directory"
    assert "has 1 bytes; it was prepared with" in found["train/dog/003.JPEG", "bad"]


def test_new_images_are_seen_also_below_folders_and_in_new_classes(root: Path) -> None:
    write_photo(root / "train" / "dog" / "wild" / "new.JPEG")
    for split in ("train", "val"):
        write_photo(root / split / "cow" / "0.JPEG")
    (root / "val" / "cow" / "x.tif").write_text("x")
    ignored: list[Ignored] = []

    found = {one.path: one for one in check_files(open_dataset(root), ignored=ignored.append)}

    assert found.keys() == {"train/dog/wild/new.JPEG", "train/cow/0.JPEG", "val/cow/0.JPEG"}
    assert {one.kind for one in found.values()} == {"unlisted"}
    assert (
        found["val/cow/0.JPEG"].reason
        == "is an image of cow, a class that the manifest does not have; it is not used"
    )
    assert [one.path for one in ignored] == ["val/cow/x.tif"]


def test_new_images_of_a_folder_that_was_split_by_chance_are_seen(tmp_path: Path) -> None:
    for number in range(4):
        write_photo(tmp_path / "ant" / f"{number}.jpg", seed=number)
    prepare(folder(tmp_path, out=tmp_path, val_fraction=0.5), tmp_path)
    write_photo(tmp_path / "ant" / "new.jpg")
    write_photo(tmp_path / "cow" / "new.jpg")
    write_photo(tmp_path / "quarantine" / "ant" / "bad.jpg")

    found = [one.path for one in check_files(open_dataset(tmp_path))]
    assert found == ["ant/new.jpg", "cow/new.jpg"]


def test_bad_files_are_moved_out_and_the_manifest_is_written_again(root: Path) -> None:
    before = open_dataset(root)
    (root / "train" / "dog" / "001.JPEG").unlink()
    (root / "val" / "dog" / "003.JPEG").write_bytes(b"x")

    after = quarantine(before, list(check_files(before)))

    assert (len(after.train), len(after.val)) == (19, 8)
    assert after.digest != before.digest
    assert (root / "quarantine" / "val" / "dog" / "003.JPEG").read_bytes() == b"x"
    assert [one.path for one in after.skipped] == ["train/dog/001.JPEG", "val/dog/003.JPEG"]
    assert list(check_files(open_dataset(root))) == []
    assert len(list(root.glob("index-*.npy"))) == 1


@pytest.mark.parametrize("splits", [("val",), ("train", "val")])
def test_a_class_is_not_emptied(root: Path, splits: tuple[str, ...]) -> None:
    for split in splits:
        shutil.rmtree(root / split / "dog")
    dataset = open_dataset(root)

    with pytest.raises(DataError, match=r"val lacks \(dog\)|no usable image of 1 class\(es\) \(dog\)"):
        quarantine(dataset, list(check_files(dataset)))
    assert open_dataset(root).digest == dataset.digest


@pytest.fixture
def read_only(photos: Path, tmp_path: Path) -> Iterator[Path]:
    """The photos on a file system that was mounted read-only."""
    with small_tmpfs(tmp_path / "disk", megabytes=4) as disk:
        shutil.copytree(photos, disk / "photos")
        (disk / "photos" / "train" / "dog" / "001.JPEG").write_bytes(b"x")
        shutil.copytree(photos, disk / "own", ignore=shutil.ignore_patterns("*.json", "*.npy"))
        subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
        yield disk


def test_data_that_cannot_be_written_are_checked_and_what_would_change_them_is_refused_in_a_sentence(
    read_only: Path,
) -> None:
    dataset = open_dataset(read_only / "photos")
    findings = list(check_files(dataset))

    assert [one.path for one in findings] == ["train/dog/001.JPEG"]
    with pytest.raises(DataError, match=r"photos cannot be changed \(Read-only file system\)"):
        quarantine(dataset, findings)
    assert open_dataset(read_only / "photos").digest == dataset.digest


def test_data_that_cannot_be_written_are_prepared_elsewhere(read_only: Path, tmp_path: Path) -> None:
    own = read_only / "own"

    with pytest.raises(
        DataError,
        match=r"Read-only file system; name a folder that can be written, .* or for a copy with --out",
    ):
        prepare(folder(own, out=own), own)
    assert prepare(folder(own, out=tmp_path / "out"), tmp_path / "out").made
