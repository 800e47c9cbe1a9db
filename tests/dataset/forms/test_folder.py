"""The user's own class folders."""

from __future__ import annotations

import itertools
import os
import shutil
import time
import unicodedata
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
from PIL import Image
from torchvision.datasets import ImageFolder

from tests.conftest import write_photo
from tests.dataset.published import jpeg
from trainer.dataset import Dataset, check_files, folder, open_dataset, prepare
from trainer.errors import DataError


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's folder: one folder a class, no split."""
    for class_id, count in (("ant", 10), ("bee", 20), ("wasp, social", 5)):
        for number in range(count):
            write_photo(tmp_path / "own" / class_id / f"{number:02d} é.jpg", seed=number)
    return tmp_path / "own"


def test_a_folder_is_split_in_place_stratified_and_seeded(own: Path) -> None:
    prepare(folder(own, out=own, val_fraction=0.2), own)

    made = open_dataset(own)
    assert made.classes == ("ant", "bee", "wasp, social")
    assert [(made.val.labels == label).sum() for label in range(3)] == [2, 4, 1]
    assert [(made.train.labels == label).sum() for label in range(3)] == [8, 16, 4]
    assert made.val.path(0).is_file()
    assert not set(map(made.val.name, range(7))) & set(map(made.train.name, range(28)))


def test_a_folder_that_is_split_may_have_its_manifest_elsewhere(own: Path, tmp_path: Path) -> None:
    before = sorted(own.rglob("*"))
    out = tmp_path / "manifest"
    first = prepare(folder(own, out=out, in_place=True, val_fraction=0.2), out).metadata
    write_photo(own / "ant" / "more.jpg")

    assert [(one.path, one.kind) for one in check_files(open_dataset(out))] == [("ant/more.jpg", "unlisted")]
    again = prepare(folder(own, out=out, in_place=True, val_fraction=0.2), out)

    assert (again.added, again.metadata["counts"]["val"]) == (1, first["counts"]["val"])
    assert sorted(own.rglob("*")) == sorted([*before, own / "ant" / "more.jpg"])
    assert open_dataset(out).val.path(0).is_file()


def test_the_split_follows_from_the_seed_and_from_nothing_else(own: Path, tmp_path: Path) -> None:
    def split(root: Path, seed: int) -> set[str]:
        copy = tmp_path / f"copy{next(counter)}"
        prepare(folder(root, out=copy, val_fraction=0.2, seed=seed), copy)
        made = open_dataset(copy)
        return {made.val.name(index) for index in range(len(made.val))}

    counter = itertools.count()
    first = split(own, 0)
    assert split(own, 0) == first
    assert split(own, 1) != first
    shutil.rmtree(own / "bee")
    assert {name for name in first if "bee" not in name} == split(own, 0)


def test_files_that_are_no_images_are_skipped_and_named(own: Path) -> None:
    (own / "ant" / "empty.jpg").touch()
    (own / "ant" / "gif.jpg").write_bytes(b"GIF89a......")
    os.mkfifo(own / "ant" / "fifo.jpg")
    (own / "ant" / "dangling.jpg").symlink_to("nowhere")
    (own / "ant" / "endless.jpg").symlink_to("/proc/kmsg")  # says that it is a regular file without bytes
    bomb = bytearray(jpeg(0))
    frame = bomb.index(b"\xff\xc0")
    bomb[frame + 5 : frame + 9] = b"\xff\xdc\xff\xdc"  # 65500 x 65500
    (own / "ant" / "bomb.jpg").write_bytes(bomb)

    metadata = prepare(folder(own, out=own, val_fraction=0.2), own).metadata

    assert dict(metadata["skipped"]) == {
        "ant/empty.jpg": "is empty",
        "ant/gif.jpg": "is a GIF; only JPEG, PNG and WebP are decoded",
        "ant/fifo.jpg": "is not a regular file",
        "ant/endless.jpg": mock.ANY,  # "is empty", or not permitted
        "ant/dangling.jpg": "cannot be read: No such file or directory",
        "ant/bomb.jpg": "claims 65500 x 65500 pixels; a decompression bomb, or no photo to train on",
    }
    assert sum(metadata["counts"].values()) == 35


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 10.0, float("nan")])
def test_a_val_fraction_that_is_none_is_refused(own: Path, fraction: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        folder(own, out=own, val_fraction=fraction)


def tree(root: Path, *names: str | bytes, splits: tuple[str, ...] = ("train", "val"), each: int = 4) -> Path:
    """Class folders of these names below each of `splits`, or in `root` itself."""
    for seed, split in enumerate(splits or ("",)):
        for name in names:
            for number in range(each):
                folder = root / split / os.fsdecode(name)
                write_photo(folder / f"{number}.jpg", seed=100 * seed + number + 10 * len(name))
    return root


def prepared(root: Path, **options: Any) -> Dataset:
    prepare(folder(root, out=root, **options), root)
    return open_dataset(root)


NAMES = ["bee\u00a0fly", "猫", "ant\u200bhill", "‮reversed", "a'b", "100%", "-rf", " lead", "x" * 200, "🐝"]


@pytest.mark.parametrize("name", NAMES)
def test_a_class_may_have_any_name_without_control_characters(tmp_path: Path, name: str) -> None:
    assert set(prepared(tree(tmp_path, "ant", name)).classes) == {"ant", name}


@pytest.mark.parametrize("fraction", [None, 0.5])
def test_a_name_that_is_no_utf8_is_a_class_whose_words_are_plain_text(
    tmp_path: Path, fraction: float | None
) -> None:
    tree(tmp_path, "ant", b"caf\xe9", splits=() if fraction else ("train", "val"))

    made = prepared(tmp_path, val_fraction=fraction)

    assert made.classes == ("ant", "caf\udce9")
    assert made.class_names == ("ant", "caf\\xe9")
    assert all(made.train.path(index).is_file() for index in range(len(made.train)))


@pytest.mark.parametrize("name", ["a\nb", "a\tb", "\x1b[31mred", "a\u2028b", "a\x85b", "a\x7f"])
def test_a_class_folder_with_control_characters_is_refused_by_name(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError, match="control characters") as error:
        folder(tree(tmp_path, "ant", name), out=tmp_path)
    assert str(error.value).isprintable()


@pytest.mark.parametrize("fraction", [None, 0.5])
def test_images_below_folders_of_a_class_are_taken_as_torchvision_takes_them(
    tmp_path: Path, fraction: float | None
) -> None:
    tree(
        tmp_path, "ant", "bee", "bee/wild/old", "cat/a", "cat/b", splits=() if fraction else ("train", "val")
    )

    made = prepared(tmp_path, val_fraction=fraction)
    split = tmp_path if fraction else tmp_path / "train"
    theirs = ImageFolder(str(split)).samples if not fraction else []

    assert made.classes == ("ant", "bee", "cat")
    if not fraction:
        ours = {(str(made.train.path(index)), label) for index, label in enumerate(made.train.labels)}
        assert ours == set(theirs)
    assert len(made.train) + len(made.val) == (20 if fraction else 40)


def test_a_copy_keeps_the_folders_below_a_class(tmp_path: Path) -> None:
    tree(tmp_path / "own", "ant", "bee/wild", "bee/tame")

    prepare(folder(tmp_path / "own", out=tmp_path / "copy"), tmp_path / "copy")

    copied = {str(path.relative_to(tmp_path / "copy")) for path in (tmp_path / "copy").rglob("*.jpg")}
    assert copied == {str(path.relative_to(tmp_path / "own")) for path in (tmp_path / "own").rglob("*.jpg")}


@pytest.mark.parametrize("ending", [".bmp", ".tif", ".gif"])
def test_a_class_of_pictures_that_are_not_read_is_refused_with_its_name_and_ending(
    tmp_path: Path, ending: str
) -> None:
    tree(tmp_path / "own", "ant", "bee")
    for split in ("train", "val"):
        write_picture(tmp_path / "own" / split / "cow" / f"0{ending}")

    with pytest.raises(
        DataError, match=rf"\(cow\); in cow: 1 {ending}, .* convert its pictures to PNG or JPEG"
    ):
        folder(tmp_path / "own", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def write_picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (40, 30), "navy").save(path)


def test_a_class_of_webp_is_taken_or_refused_by_name(tmp_path: Path) -> None:
    tree(tmp_path, "ant")
    for split in ("train", "val"):
        write_picture(tmp_path / split / "cow" / "0.webp")

    with suppress(DataError):
        assert prepared(tmp_path).classes == ("ant", "cow")
        return
    with pytest.raises(DataError, match=r"no usable image of 1 class\(es\) \(cow\)"):
        prepared(tmp_path)


@pytest.mark.parametrize("fraction", [None, 0.5])
def test_a_class_whose_every_file_is_broken_is_refused_with_the_reason(
    tmp_path: Path, fraction: float | None
) -> None:
    tree(tmp_path, "ant", "cow", splits=() if fraction else ("train", "val"))
    for path in tmp_path.rglob("cow/*"):
        path.write_bytes(b"")

    with pytest.raises(
        DataError, match=r"no usable image of 1 class\(es\) \(cow\).*cow/\d\.jpg: it is empty"
    ):
        prepared(tmp_path, val_fraction=fraction)
    assert not (tmp_path / "dataset.json").exists()
    assert not (tmp_path / ".preparing").exists()


def test_ignored_files_are_counted_by_ending_and_reason(tmp_path: Path) -> None:
    tree(tmp_path, "ant", "bee")
    for path in ("train/ant/a.tif", "train/bee/b.TIF", "val/ant/README", "train/notes.txt", "val/.DS_Store"):
        (tmp_path / path).write_text("x")
    for path in ("train/@eaDir/0.jpg", "train/__MACOSX/ant/._0.jpg", "val/ant/.ipynb_checkpoints/0.jpg"):
        write_photo(tmp_path / path)

    metadata = prepare(folder(tmp_path, out=tmp_path), tmp_path).metadata

    assert {(ending, files): reason for ending, reason, files, _ in metadata["ignored"]} == {
        (".tif", 2): "have not the ending of a JPEG, PNG or WebP",
        ("", 1): "have not the ending of a JPEG, PNG or WebP",
        ("", 4): "are hidden or an operating system's",
        (".txt", 1): "lie outside of the class folders",
    }
    assert metadata["classes"] == ("ant", "bee")


def test_links_that_loop_or_cross_end_the_walk_at_once(tmp_path: Path) -> None:
    tree(tmp_path / "own", "ant", "bee")
    for name in "abc":
        (tmp_path / "own/train/ant" / name).symlink_to(".")
        (tmp_path / "own/train/bee" / name).symlink_to("../../..")
    (tmp_path / "own/train/ant/self").symlink_to("self")

    begin = time.monotonic()
    made = prepare(folder(tmp_path / "own", out=tmp_path / "out"), tmp_path / "out").metadata

    assert time.monotonic() - begin < 60
    assert made["counts"]["val"] == 8
    assert any(reason == "are links to a folder that is read already" for _, reason, _, _ in made["ignored"])


@pytest.mark.parametrize(("train", "val"), [("NFC", "NFD"), ("NFD", "NFC")])
def test_a_class_that_looks_the_same_in_both_splits_is_the_same(tmp_path: Path, train: Any, val: Any) -> None:
    tree(tmp_path, unicodedata.normalize(train, "café"), splits=("train",))
    tree(tmp_path, unicodedata.normalize(val, "café"), splits=("val",))

    made = prepared(tmp_path)

    assert made.classes == (unicodedata.normalize(train, "café"),)
    assert made.val.path(0).is_file()


def test_two_folders_that_look_the_same_are_refused_with_escapes(tmp_path: Path) -> None:
    tree(tmp_path, unicodedata.normalize("NFC", "café"), unicodedata.normalize("NFD", "café"))

    with pytest.raises(DataError, match=r"'caf\\xe9' and 'cafe\\u0301'|'cafe\\u0301' and 'caf\\xe9'"):
        folder(tmp_path, out=tmp_path)


def test_a_class_of_one_image_cannot_be_split(tmp_path: Path) -> None:
    tree(tmp_path, "ant", splits=())
    tree(tmp_path, "cow", splits=(), each=1)

    with pytest.raises(DataError, match=r"cow has 1 image; a class needs 2 to be split"):
        folder(tmp_path, out=tmp_path, val_fraction=0.2)


def _dogs_vs_cats(root: Path) -> None:
    for name in ("train/cat.0", "train/dog.0", "test/1"):
        write_photo(root / f"{name}.jpg")


def _flat_val_of_whatever(root: Path) -> None:
    tree(root, "ant", splits=("train",))
    write_photo(root / "val" / "1.jpg")


def _flat_val_with_a_stranger(root: Path) -> None:
    tree(root, "n01440764", splits=("train",))
    write_photo(root / "val" / "ILSVRC2012_val_00000293.JPEG")
    write_photo(root / "val" / "holiday.jpg")


def _flat_val_sorted_in_part(root: Path) -> None:
    tree(root, "n01440764")
    write_photo(root / "val" / "ILSVRC2012_val_00000293.JPEG")


def _flat_val_with_other_labels(root: Path) -> None:
    tree(root, "n01440764", splits=("train",))
    write_photo(root / "val" / "ILSVRC2012_val_00000293.JPEG")
    (root / "LOC_val_solution.csv").write_text(
        "ImageId,PredictionString\nILSVRC2012_val_00000293,n02102040 1 2 3 4 \n"
    )


def _class_tars(root: Path) -> None:
    tree(root, "n01440764", splits=("val",))
    for wnid in ("n01440764", "n02102040"):
        (root / "train").mkdir(exist_ok=True)
        (root / "train" / f"{wnid}.tar").write_bytes(b"")


@pytest.mark.parametrize(
    ("make", "fraction", "says"),
    [
        (_dogs_vs_cats, 0.1, "holds test, train, which are no classes"),
        (
            _dogs_vs_cats,
            None,
            r"no train/ and val/ but only test, train.* prepare folder .*train --val-fraction",
        ),
        (_flat_val_of_whatever, None, "own/val holds 1 files and no class folders"),
        (_flat_val_with_a_stranger, None, "holiday.jpg has no label in the list of the 50,000"),
        (
            _flat_val_sorted_in_part,
            None,
            "own/val holds 1 class folders and 1 images beside .* sorted in part",
        ),
        (
            _flat_val_with_other_labels,
            None,
            "LOC_val_solution.csv: the class of ILSVRC2012_val_00000293.JPEG",
        ),
        (_class_tars, None, "own/train holds 2 files .* tars of one class each: unpack each"),
        (lambda root: tree(root, "ant", splits=("train",)), None, "but only train; .* --val-fraction 0.1"),
        (
            lambda root: tree(root, "ant", splits=("a/train", "a/val", "b/train", "b/val")),
            None,
            "no train/ and val/; a, b in it have; give one of them, e.g. .*own/a",
        ),
        (lambda root: tree(root, "ant", splits=("train", "validation")), None, "but only train, validation"),
        (lambda root: tree(root, "ant", splits=("Train", "Val")), None, "but Train, Val; rename the two"),
        (lambda root: tree(root, "ant", splits=("train", "valid", "test")), 0.1, "which are no classes"),
        (
            lambda root: tree(root, "ant", "bee", splits=("images",)),
            0.1,
            r"holds images; .* e\.g\. .*own/images",
        ),
        (
            lambda root: tree(root, "ant", splits=("a/train", "b/train")),
            0.1,
            "give the folder that holds the class",
        ),
    ],
)
def test_a_layout_mistake_is_told_of_the_users_folder_before_a_byte_is_copied(
    tmp_path: Path, make: Callable[[Path], object], fraction: float | None, says: str
) -> None:
    make(tmp_path / "own")

    with pytest.raises(DataError, match=says):
        folder(tmp_path / "own", out=tmp_path / "out", val_fraction=fraction)
    assert not (tmp_path / "out").exists()


def test_train_is_a_class_like_others_where_it_stands_among_them(tmp_path: Path) -> None:
    tree(tmp_path, "bus", "car", "train", splits=())

    assert prepared(tmp_path, val_fraction=0.25).classes == ("bus", "car", "train")
