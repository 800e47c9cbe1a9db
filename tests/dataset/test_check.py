"""Files that went missing, changed or appeared since the data set was prepared."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.conftest import write_photo
from trainer.dataset import check_files, open_dataset, quarantine
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


def test_a_class_is_not_emptied(root: Path) -> None:
    shutil.rmtree(root / "val" / "dog")
    dataset = open_dataset(root)

    with pytest.raises(DataError, match=r"val lacks \(dog\)"):
        quarantine(dataset, list(check_files(dataset)))
    assert open_dataset(root).digest == dataset.digest
