"""What a data set is shown to be before somebody trains on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import write_photo
from tests.dataset import published
from trainer.dataset import (
    Dataset,
    Source,
    doubts,
    fastai,
    folder,
    imagenet,
    imagenet_classes,
    kaggle,
    open_dataset,
    prepare,
    tiny_imagenet,
)

ALL = "published are 1,281,167 and 50,000 images"


def test_a_sound_data_set_has_none(dataset: Dataset) -> None:
    assert doubts(dataset) == []


def test_validation_images_that_are_trained_on_are_counted(photos: Path, tmp_path: Path) -> None:
    own = shutil.copytree(photos / "train", tmp_path / "own" / "train").parent
    (own / "val").symlink_to("train")
    prepare(folder(own, out=own), own)

    (said,) = doubts(open_dataset(own))

    assert said.startswith("20 of 20 validation images are training images too, byte for byte")


def test_a_single_shared_image_is_named(photos: Path, tmp_path: Path) -> None:
    own = shutil.copytree(photos, tmp_path / "own", ignore=shutil.ignore_patterns("*.json", "*.npy"))
    shutil.copy(own / "train" / "cat" / "000.JPEG", own / "val" / "dog" / "copied.JPEG")
    prepare(folder(own, out=own), own)

    (said,) = doubts(open_dataset(own))

    assert "1 of 10 validation images" in said
    assert "val/dog/copied.JPEG" in said


def test_one_class_is_worth_a_word(tmp_path: Path) -> None:
    for seed, split in enumerate(("train", "val")):
        write_photo(tmp_path / split / "ant" / "0.jpg", seed=seed)
    prepare(folder(tmp_path, out=tmp_path), tmp_path)

    assert doubts(open_dataset(tmp_path)) == [
        "there is one class only: whatever is trained will be right always"
    ]


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (lambda to: kaggle(published.kaggle_zip(to)), ALL),
        (lambda to: imagenet(published.imagenet(to), verify=False), ALL),
        (lambda to: fastai("imagenette", published.fastai(to), size="320", verify=False), "9,469 and 3,925"),
        (lambda to: tiny_imagenet(published.tiny_imagenet(to), verify=False), "100,000 and 10,000"),
    ],
    ids=["kaggle", "imagenet", "imagenette", "tiny-imagenet"],
)
def test_a_part_of_a_published_data_set_is_compared_with_the_whole_whether_its_checksum_is_or_not(
    tmp_path: Path, source: Callable[[Path], Source], says: str
) -> None:
    prepare(source(tmp_path), tmp_path / "out")

    (said,) = doubts(open_dataset(tmp_path / "out"))
    assert says in said


def test_imagenets_classes_in_a_users_folder_are_known_as_imagenet(dataset: Dataset) -> None:
    assert doubts(replace(dataset, classes=tuple(imagenet_classes()))) == [ALL]
    assert doubts(replace(dataset, classes=tuple(imagenet_classes())[1:])) == []
