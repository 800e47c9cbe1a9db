"""ImageNet as one archive."""

from __future__ import annotations

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.dataset import published
from tests.dataset.published import tar_of, val_names, zip_of
from trainer.dataset import kaggle, prepare
from trainer.errors import DataError


@pytest.mark.parametrize("archive", [published.kaggle_zip, published.kaggle_tar], ids=["zip", "tar.gz"])
def test_the_images_come_out_byte_for_byte_in_their_classes(
    tmp_path: Path, archive: Callable[[Path], Path]
) -> None:
    published.check_images_come_out_byte_for_byte(kaggle(archive(tmp_path)), tmp_path / "out")


def test_an_older_zip_that_holds_the_images_in_a_tar_is_read_too(tmp_path: Path) -> None:
    with zipfile.ZipFile(published.kaggle_zip(tmp_path)) as archive:
        files = [(name, archive.read(name)) for name in archive.namelist()]
    inner = gzip.compress(tar_of(one for one in files if one[0].startswith("ILSVRC/")))
    outside = [one for one in files if not one[0].startswith("ILSVRC/")]
    again = [("imagenet_object_localization_patched2019.tar.gz", inner), *outside]

    source = kaggle(zip_of(tmp_path / "again.zip", again))
    published.check_images_come_out_byte_for_byte(source, tmp_path / "out")


def test_kaggles_own_labels_must_agree_with_the_published_ones(tmp_path: Path) -> None:
    archive = published.kaggle_zip(tmp_path)
    names = val_names()
    boxes = "".join(f"{name[:-5]},n02102040 1 2 3 4\n" for name in names)
    zip_of(archive, [("LOC_val_solution.csv", f"ImageId,PredictionString\n{boxes}".encode())])

    with pytest.raises(DataError, match=r"the class of ILSVRC2012_val.* is not that of the published labels"):
        prepare(kaggle(archive), tmp_path / "out")


@pytest.mark.parametrize("top", ["./", "imagenet-object-localization-challenge/", "a/b/"])
def test_a_folder_around_the_whole_changes_nothing(tmp_path: Path, top: str) -> None:
    with zipfile.ZipFile(published.kaggle_zip(tmp_path)) as archive:
        files = [(top + name, archive.read(name)) for name in archive.namelist()]
    files.append((f"__MACOSX/{top}ILSVRC/Data/CLS-LOC/train/n01440764/._n01440764_18.JPEG", b"\0\5\26\7"))

    source = kaggle(zip_of(tmp_path / "again.zip", files))
    published.check_images_come_out_byte_for_byte(source, tmp_path / "out")


def test_another_archive_is_refused_with_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"no file has the name of an image for train of imagenet; it holds 1[78] files"
    ):
        prepare(kaggle(published.fastai(tmp_path)), tmp_path / "out")


def test_labels_that_are_no_text_are_refused_in_a_sentence(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "x.zip", [("LOC_val_solution.csv", b"ImageId\n\xff\xfe\n")])

    with pytest.raises(DataError, match=r"'LOC_val_solution\.csv' is no text"):
        prepare(kaggle(archive), tmp_path / "out")


def test_members_that_are_no_images_are_counted(tmp_path: Path) -> None:
    metadata = prepare(kaggle(published.kaggle_zip(tmp_path)), tmp_path / "out").metadata

    assert {(ending, files) for ending, _, files, _ in metadata["ignored"]} == {
        (".xml", 1),
        (".txt", 2),
        (".csv", 1),
        (".jpeg", 1),
    }
