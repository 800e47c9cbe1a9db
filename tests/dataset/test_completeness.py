"""Counts of each class and split against the published ones, by wnid, whatever form the images came from."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.dataset import published
from trainer.dataset import (
    Completeness,
    Dataset,
    Finding,
    ImageRecord,
    Skipped,
    SplitName,
    completeness,
    folder,
    imagenet_classes,
    open_dataset,
    prepare,
    quarantine,
    require_complete,
    write_manifest,
)
from trainer.dataset.forms._imagenet_labels import imagenet_val_labels, published_sets, val_name
from trainer.errors import DataError

WNIDS = tuple(imagenet_classes())


def record(split: SplitName, wnid: str, name: str, *, number: int = 0) -> ImageRecord:
    return ImageRecord(split, wnid, f"{split}/{wnid}/{name}", 1000 + number, 500, 375, number)


def images(name: str) -> list[ImageRecord]:
    """Records of all images of a published set; no two have the same content."""
    made = []
    for wnid, (train, val) in published_sets()[name].items():
        made += [record("train", wnid, f"{wnid}_{7 * number + 11}.JPEG") for number in range(train)]
        if name != "imagenet":
            made += [record("val", wnid, f"{wnid}_{9 * number + 200_000}.JPEG") for number in range(val)]
    if name == "imagenet":
        made += [
            record("val", WNIDS[label], val_name(number))
            for number, label in enumerate(imagenet_val_labels(), start=1)
        ]
    return [one._replace(crc32=number) for number, one in enumerate(made)]


def written(
    root: Path, records: Iterable[ImageRecord], skipped: Iterable[Skipped] = (), **metadata: Any
) -> Dataset:
    metadata = {"name": "data", "options": {}, "archives": [], "ignored": [], **metadata}
    root.mkdir(exist_ok=True)
    write_manifest(root, records, skipped, metadata=metadata, class_names={})
    return open_dataset(root)


def compared(dataset: Dataset) -> Completeness:
    against = completeness(dataset)
    assert against is not None
    return against


def tenth(records: list[ImageRecord], *, of: str) -> list[ImageRecord]:
    """Without every tenth training image of a class."""
    its = [one for one in records if one.split == "train" and one.class_id == of]
    return [one for one in records if one not in set(its[::10])]


def test_the_published_counts_are_those_that_are_known() -> None:
    sets = published_sets()
    train = np.array([counts[0] for counts in sets["imagenet"].values()])

    assert tuple(sets["imagenet"]) == WNIDS
    assert (train.sum(), train.min(), train.max()) == (1_281_167, 732, 1300)
    assert {counts[1] for counts in sets["imagenet"].values()} == {50}
    totals = {name: tuple(map(sum, zip(*counts.values(), strict=True))) for name, counts in sets.items()}
    assert totals == {
        "imagenet": (1_281_167, 50_000),
        "imagenette": (9_469, 3_925),
        "imagewoof": (9_025, 3_929),
        "tiny-imagenet": (100_000, 10_000),
    }
    # fast.ai divided training and validation images of ImageNet anew: what it has of a class is all there is of it.
    for name in ("imagenette", "imagewoof"):
        for wnid, counts in sets[name].items():
            assert sum(counts) == sets["imagenet"][wnid][0] + 50


@pytest.mark.parametrize("name", ["imagenette", "imagewoof", "tiny-imagenet"])
def test_a_published_subset_is_known_by_its_wnids(tmp_path: Path, name: str) -> None:
    dataset = written(tmp_path / "data", images(name))
    against = compared(dataset)

    assert (against.whole, against.complete()) == (True, True)
    assert against.problems() == []
    assert against.describe() == f"{against.name} as published"
    require_complete(dataset, partial=False)


@pytest.fixture(scope="module")
def imagenette() -> list[ImageRecord]:
    return images("imagenette")


def test_what_is_missing_is_counted_by_class_the_worst_first(
    tmp_path: Path, imagenette: list[ImageRecord]
) -> None:
    short = tenth(tenth(imagenette, of="n01440764"), of="n03000684")
    short = [
        one for one in short if not (one.class_id == "n03888257" and one.split == "val" and one.crc32 % 2)
    ]

    against = compared(written(tmp_path / "data", short))

    assert not against.complete()
    train, val = against.problems()
    assert train == (
        "183 of 9,469 training images are missing (n01440764 has 866 of 963, n03000684 has 772 of 858)"
    )
    assert val == "195 of 3,925 validation images are missing (n03888257 has 195 of 390)"
    assert against.describe() == f"not Imagenette as published: {train}; {val}"
    assert against.complete(("train",)) is against.complete(("val",)) is False


def test_training_refuses_a_silent_gap_in_one_sentence_unless_a_part_is_meant(
    tmp_path: Path, imagenette: list[ImageRecord]
) -> None:
    dataset = written(tmp_path / "data", tenth(imagenette, of="n01440764"))

    with pytest.raises(DataError) as refused:
        require_complete(dataset, partial=False)
    assert str(refused.value) == (
        f"{tmp_path / 'data'} is not Imagenette as published: 97 of 9,469 training images are missing "
        f"(n01440764 has 866 of 963); prepare it again from all of its source (`trainer check {tmp_path / 'data'}` "
        "counts each class), or use it as it is with --partial"
    )
    require_complete(dataset, partial=True)
    require_complete(dataset, partial=False, splits=("val",))  # its validation images are all there


@pytest.mark.parametrize(("unusable", "fine"), [(9, True), (10, False)])
def test_a_handful_of_unusable_images_is_named_and_does_not_block(
    tmp_path: Path, imagenette: list[ImageRecord], unusable: int, fine: bool
) -> None:
    """0.1 % of 9,469 training images."""
    skipped = [Skipped(one.path, "is a GIF") for one in imagenette[:unusable]]

    against = compared(written(tmp_path / "data", imagenette[unusable:], skipped))

    assert against.complete() is fine
    (said,) = against.problems()
    assert said == (
        f"{unusable} of 9,469 training images are missing, {unusable} of them unusable "
        f"(n01440764 has {963 - unusable} of 963)"
    )
    assert (f"Imagenette as published but for a few: {said}" == against.describe()) is fine


def test_images_that_check_has_moved_out_are_unusable_ones(
    tmp_path: Path, imagenette: list[ImageRecord]
) -> None:
    dataset = written(tmp_path / "data", imagenette)
    after = quarantine(dataset, [Finding(imagenette[5].path, "bad", "cannot be decoded")])

    against = compared(after)

    assert against.skipped.sum() == against.missing.sum() == 1
    assert against.complete()


def test_more_images_than_published_are_no_published_set_either(
    tmp_path: Path, imagenette: list[ImageRecord]
) -> None:
    twice = [
        one._replace(path=one.path.replace(".JPEG", " (1).JPEG"), crc32=one.crc32 + 10**6)
        for one in imagenette[:30]
    ]
    against = compared(written(tmp_path / "data", imagenette + twice))

    assert not against.complete()
    assert against.problems() == [
        "there are 30 training images more than published (n01440764 has 993 of 963)"
    ]


def test_a_class_whose_folder_was_swapped_is_found_by_the_names_of_its_files(
    tmp_path: Path, imagenette: list[ImageRecord]
) -> None:
    first, second = "n01440764", "n02102040"
    swap = {first: second, second: first}
    moved = [
        one._replace(
            class_id=swap.get(one.class_id, one.class_id),
            path=f"{one.split}/{swap.get(one.class_id, one.class_id)}/{one.path.rpartition('/')[2]}",
        )
        if one.split == "train"
        else one
        for one in imagenette
    ]

    against = compared(written(tmp_path / "data", moved))

    assert not against.complete()
    assert against.complete(("val",))
    assert len(against.misplaced) == 963 + 955
    one = against.misplaced[0]
    assert (one.class_id, one.belongs) == (first, second)
    assert one.path.startswith(f"train/{first}/{second}_")
    assert against.problems()[-1].startswith(
        "1,918 image(s) are in another class than their names say (train/"
    )


def test_a_validation_image_in_the_wrong_class_is_found_by_its_number(tmp_path: Path) -> None:
    classes = WNIDS[:3]
    val = [
        record("val", classes[label], val_name(number), number=number)
        for number, label in enumerate(imagenet_val_labels(), start=1)
        if label < 3
    ]
    train = [record("train", wnid, f"{wnid}_{n}.JPEG", number=n) for wnid in classes for n in range(9)]
    right = compared(written(tmp_path / "right", train + val))
    at = next(i for i, one in enumerate(val) if one.class_id == classes[0])
    name = val[at].path.rpartition("/")[2]
    val[at] = val[at]._replace(class_id=classes[2], path=f"val/{classes[2]}/{name}")

    wrong = compared(written(tmp_path / "wrong", train + val))

    assert right.misplaced == ()
    assert [tuple(one) for one in wrong.misplaced] == [
        ("val", f"val/{classes[2]}/{name}", classes[2], classes[0])
    ]


def test_two_images_that_changed_places_are_found_although_all_counts_are_right(
    tmp_path: Path, imagenette: list[ImageRecord]
) -> None:
    one, other = imagenette[0], next(image for image in imagenette if image.class_id == "n03888257")
    changed = [image._replace(class_id=there.class_id) for image, there in ((one, other), (other, one))]
    dataset = written(
        tmp_path / "data", [*changed, *(image for image in imagenette if image not in (one, other))]
    )

    assert compared(dataset).missing.sum() == compared(dataset).extra.sum() == 0
    assert not compared(dataset).complete()
    with pytest.raises(DataError, match=r"2 image\(s\) are in another class than their names say"):
        require_complete(dataset, partial=False)
    require_complete(dataset, partial=False, splits=("val",))


@pytest.mark.parametrize(
    "layout",
    [
        lambda one, name: f"ILSVRC/Data/CLS-LOC/{one.split}/{one.class_id}/{name}",
        lambda one, name: f"{one.split}/{one.class_id}/images/{name}",
        lambda one, name: f"{one.split}/{one.class_id}/{'deeper/' if one.crc32 % 3 else ''}{name}",
        lambda one, name: name,
    ],
    ids=["Kaggle's", "Tiny ImageNet's", "mixed", "flat"],
)
def test_names_are_read_wherever_the_files_lie(
    tmp_path: Path, imagenette: list[ImageRecord], layout: Callable[[ImageRecord, str], str]
) -> None:
    laid = [one._replace(path=layout(one, one.path.rpartition("/")[2])) for one in imagenette]
    moved = [laid[0]._replace(class_id="n03888257"), *laid[1:]]

    right, wrong = (
        compared(written(tmp_path / name, records)) for name, records in (("a", laid), ("b", moved))
    )

    assert right.complete()
    assert [one.belongs for one in wrong.misplaced] == ["n01440764"]


def test_files_of_other_names_say_nothing_of_their_class(
    tmp_path: Path, imagenette: list[ImageRecord]
) -> None:
    renamed = [one._replace(path=f"{one.split}/{one.class_id}/n{one.crc32}.jpg") for one in imagenette]
    against = compared(written(tmp_path / "data", renamed))

    assert against.complete()


def test_a_part_by_choice_is_compared_class_by_class_and_not_refused(tmp_path: Path) -> None:
    classes = published_sets()["imagenet"]
    some = {wnid: classes[wnid] for wnid in (WNIDS[0], "n02089078", WNIDS[-1])}
    whole = [
        record(split, wnid, f"{wnid}_{n + 1000 * (split == 'val')}.JPEG", number=n)
        for wnid, counts in some.items()
        for split, count in zip(("train", "val"), counts, strict=True)
        for n in range(count)
    ]
    right = compared(written(tmp_path / "right", whole))
    short = written(tmp_path / "short", whole[100:])
    against = compared(short)

    assert not right.whole
    assert right.describe() == "3 classes of ImageNet"
    assert against.describe() == (
        f"3 classes of ImageNet, 100 of 3,332 training images are missing ({WNIDS[0]} has 1,200 of 1,300)"
    )
    require_complete(short, partial=False)


def test_imagenettes_classes_may_be_those_of_imagenet_itself(tmp_path: Path) -> None:
    """Somebody has copied ten class folders of ImageNet, where fast.ai has divided the images anew."""
    own = [
        record(split, wnid, f"{wnid}_{n + 2000 * (split == 'val')}.JPEG", number=n)
        for wnid in published_sets()["imagenette"]
        for split, count in zip(("train", "val"), published_sets()["imagenet"][wnid], strict=True)
        for n in range(count)
    ]
    against = compared(written(tmp_path / "data", own))

    assert against.describe() == "10 classes of ImageNet"


def test_validation_images_that_were_split_off_count_as_training_images(tmp_path: Path) -> None:
    train = [
        record("val" if n % 10 == 0 else "train", wnid, f"{wnid}_{n}.JPEG", number=n)
        for wnid in WNIDS[:2]
        for n in range(1300)
    ]
    dataset = written(tmp_path / "data", train, options={"val_fraction": 0.1, "seed": 0})
    against = compared(dataset)

    assert against.problems() == []


@pytest.mark.parametrize("classes", [("cat", "dog"), ("n01440764", "cat"), ("n01440764", "n02666347")])
def test_a_users_own_classes_have_no_published_counts(tmp_path: Path, classes: tuple[str, ...]) -> None:
    """Words are no ids; and of ImageNet's wnids beside others there may be as many images as one likes."""
    records = [record(split, one, "0.jpg") for one in classes for split in ("train", "val")]
    dataset = written(tmp_path / "data", records)

    assert completeness(dataset) is None
    require_complete(dataset, partial=False)


def test_images_that_were_made_smaller_count_the_same(tmp_path: Path, imagenette: list[ImageRecord]) -> None:
    smaller = [one._replace(bytes=one.bytes // 2, width=200, height=150) for one in imagenette]
    against = compared(written(tmp_path / "data", smaller, options={"shorter_side": 150, "quality": 90}))

    assert against.complete()


def test_a_prepared_part_of_an_archive_is_a_part(tmp_path: Path) -> None:
    for split, names in (("train", published.train_names()), ("val", published.val_names())):
        for seed, (name, wnid) in enumerate(names.items()):
            path = tmp_path / "own" / split / wnid / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(published.jpeg(seed))
    prepare(folder(tmp_path / "own", out=tmp_path / "own"), tmp_path / "own")
    against = compared(open_dataset(tmp_path / "own"))

    assert (against.whole, against.misplaced) == (False, ())
    assert json.loads(json.dumps(against.as_dict()))["train"] == {
        "expected": 3900,
        "found": 12,
        "missing": 3888,
        "extra": 0,
        "skipped": 0,
    }


@pytest.mark.slow
def test_all_of_imagenet_is_compared_within_the_time_that_nobody_notices(tmp_path: Path) -> None:
    dataset = written(tmp_path / "data", images("imagenet"))
    began = time.process_time()
    against = compared(dataset)
    took = time.process_time() - began

    assert against.describe() == "ImageNet as published"
    assert took < 1  # 0.1 to 0.15 s where nothing else runs
