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
    ImageRecord,
    Source,
    Split,
    SplitName,
    doubts,
    duplicates,
    fastai,
    folder,
    imagenet,
    imagenet_classes,
    kaggle,
    open_dataset,
    prepare,
    tiny_imagenet,
    write_manifest,
)
from trainer.dataset.forms._imagenet_labels import published_sets

TRAIN_AND_VAL: tuple[SplitName, SplitName] = ("train", "val")
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
    (said,) = doubts(replace(dataset, classes=tuple(imagenet_classes())))

    assert said.startswith(
        "not ImageNet as published: 1,281,147 of 1,281,167 training images are missing (n0"
    )
    assert "49,991 of 50,000 validation images are missing" in said


def test_classes_of_imagenet_with_fewer_images_than_published_are_named(tmp_path: Path) -> None:
    prepare(imagenet(published.imagenet(tmp_path), verify=False), tmp_path / "out")

    assert doubts(open_dataset(tmp_path / "out")) == [
        f"{ALL}; 3 classes of ImageNet, 3,888 of 3,900 training images are missing (n01440764 has 4 of 1,300, "
        "n02102040 has 4 of 1,300, n15075141 has 4 of 1,300); 144 of 150 validation images are missing "
        "(n01440764 has 2 of 50, n02102040 has 2 of 50, n15075141 has 2 of 50)"
    ]


@pytest.fixture
def some_of_imagenet(tmp_path: Path) -> Path:
    """Three of ImageNet's classes in a user's folder."""
    for split, names in (("train", published.train_names()), ("val", published.val_names())):
        for seed, (name, wnid) in enumerate(names.items()):
            path = tmp_path / "own" / split / wnid / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(published.jpeg(seed + 1000 * (split == "val")))
    return tmp_path / "own"


def test_copies_within_and_between_the_splits_are_counted_and_named(some_of_imagenet: Path) -> None:
    train, val = some_of_imagenet / "train" / "n01440764", some_of_imagenet / "val" / "n15075141"
    first, second = sorted(train.iterdir())[:2]
    third = sorted(val.iterdir())[0]
    shutil.copy(first, train / "n01440764_90001.JPEG")
    shutil.copy(first, train / "n01440764_90002.JPEG")
    shutil.copy(second, val / "copied.JPEG")
    shutil.copy(third, val / "twice.JPEG")
    prepare(folder(some_of_imagenet, out=some_of_imagenet), some_of_imagenet)
    dataset = open_dataset(some_of_imagenet)

    same = duplicates(dataset)

    assert (same.train.number, same.val.number, same.between.number) == (2, 1, 1)
    assert same.train.example == (
        "train/n01440764/n01440764_90002.JPEG",
        first.relative_to(some_of_imagenet).as_posix(),
    )
    assert same.val.example == ("val/n15075141/twice.JPEG", third.relative_to(some_of_imagenet).as_posix())
    assert same.between.example == (
        "val/n15075141/copied.JPEG",
        second.relative_to(some_of_imagenet).as_posix(),
    )
    said = "; ".join(doubts(dataset))
    assert (
        "1 of 8 validation images are training images too, byte for byte (e.g. val/n15075141/copied" in said
    )
    assert (
        "2 of 14 training images are copies of others, byte for byte (e.g. train/n01440764/n01440764" in said
    )
    assert "1 of 8 validation images are copies of others" in said


def test_images_that_only_look_alike_to_the_manifest_are_no_copies(some_of_imagenet: Path) -> None:
    prepare(folder(some_of_imagenet, out=some_of_imagenet), some_of_imagenet)
    dataset = open_dataset(some_of_imagenet)
    rows = dataset.train.rows.copy()
    for field in ("bytes", "crc32"):
        rows[field][1] = rows[field][0]

    same = duplicates(replace(dataset, train=Split(dataset.root, rows)))

    assert same.train == (0, None)


def test_the_few_copies_that_a_published_set_has_itself_are_no_doubt(tmp_path: Path) -> None:
    """One in a thousand; of a user's own images each copy in both splits is one."""
    records = [
        ImageRecord(split, wnid, f"{split}/{wnid}/{wnid}_{n + shift}.JPEG", 5000, 500, 375, n + shift)
        for wnid in published_sets()["imagenette"]
        for split, shift, count in zip(
            TRAIN_AND_VAL, (0, 5000), published_sets()["imagenette"][wnid], strict=True
        )
        for n in range(count)
    ]
    records = [one._replace(crc32=number) for number, one in enumerate(records)]
    few = [one._replace(crc32=records[0].crc32) for one in records[1:10]] + records[:1] + records[10:]
    (tmp_path / "data").mkdir()
    metadata = {"name": "imagenette", "options": {}, "archives": [], "ignored": []}
    write_manifest(tmp_path / "data", few, [], metadata=metadata, class_names={})
    dataset = open_dataset(tmp_path / "data")

    assert duplicates(dataset).train.number == 9
    assert doubts(dataset) == []


def test_a_users_own_copies_among_the_training_images_stay_unsaid(photos: Path, tmp_path: Path) -> None:
    own = shutil.copytree(photos, tmp_path / "own", ignore=shutil.ignore_patterns("*.json", "*.npy"))
    shutil.copy(own / "train" / "cat" / "000.JPEG", own / "train" / "cat" / "copied.JPEG")
    prepare(folder(own, out=own), own)

    assert doubts(open_dataset(own)) == []
    assert duplicates(open_dataset(own)).train.number == 1
