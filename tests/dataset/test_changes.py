"""Preparing a user's own folder again, after its images have changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import write_photo
from tests.dataset.published import jpeg
from trainer.dataset import (
    Dataset,
    Prepared,
    Resize,
    check_files,
    folder,
    open_dataset,
    prepare,
    quarantine,
)
from trainer.errors import DataError


def write(root: Path, *classes: str, numbers: range = range(4)) -> None:
    for name in classes:
        for number in numbers:
            write_photo(root / name / f"{number}.jpg", seed=number + 100 * len(name))


@pytest.fixture
def own(tmp_path: Path) -> Path:
    for split in ("train", "val"):
        write(tmp_path / "own" / split, "ant", "bee")
    return tmp_path / "own"


def again(own: Path, out: Path | None = None, resize: Resize | None = None, **options: Any) -> Prepared:
    return prepare(folder(own, out=out or own, **options), out or own, resize=resize)


def names(dataset: Dataset) -> dict[str, set[str]]:
    return {
        split: {images.name(index) for index in range(len(images))}
        for split, images in (("train", dataset.train), ("val", dataset.val))
    }


def _nothing(own: Path) -> None: ...


def _images(own: Path) -> None:
    write(own / "train", "ant", numbers=range(4, 12))


def _class(own: Path) -> None:
    for split in ("train", "val"):
        write(own / split, "cow")


def _other_length(own: Path) -> None:
    (own / "val" / "bee" / "0.jpg").write_bytes(jpeg(7))


def _removed(own: Path) -> None:
    (own / "val" / "bee" / "0.jpg").unlink()


def _class_removed(own: Path) -> None:
    for split in ("train", "val"):
        shutil.rmtree(own / split / "bee")


@pytest.mark.parametrize(
    ("change", "added", "removed"),
    [
        (_nothing, 0, 0),
        (_images, 8, 0),
        (_class, 8, 0),
        (_other_length, 1, 0),
        (_removed, 0, 1),
        (_class_removed, 0, 8),
    ],
)
def test_what_has_changed_is_taken_in_as_if_it_were_prepared_for_the_first_time(
    own: Path, tmp_path: Path, change: Callable[[Path], None], added: int, removed: int
) -> None:
    (own / "train" / "ant" / "broken.jpg").touch()
    again(own)
    change(own)

    made = again(own)

    fresh = prepare(folder(own, out=tmp_path / "fresh"), tmp_path / "fresh")
    assert (made.added, made.removed, made.made) == (added, removed, bool(added or removed))
    assert made.metadata["digest"] == fresh.metadata["digest"]
    assert [path for path, _ in made.metadata["skipped"]] == ["train/ant/broken.jpg"]
    assert not again(own).made
    assert list(check_files(open_dataset(own))) == []


@pytest.mark.parametrize("resize", [None, Resize(32)])
@pytest.mark.parametrize("change", [_images, _class])
def test_a_copy_gets_what_was_added_and_keeps_what_it_has(
    own: Path, tmp_path: Path, resize: Resize | None, change: Callable[[Path], None]
) -> None:
    out = tmp_path / "out"
    again(own, out, resize)
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.jpg")}
    (out / "train" / "ant" / "mine.jpg").write_bytes(jpeg(1))
    change(own)

    made = again(own, out, resize)

    fresh = again(own, tmp_path / "fresh", resize)
    assert (made.added, made.metadata["digest"]) == (8, fresh.metadata["digest"])
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert (out / "train" / "ant" / "mine.jpg").exists()
    assert not again(own, out, resize).made


def test_a_changed_image_is_copied_again(own: Path, tmp_path: Path) -> None:
    again(own, tmp_path / "out")
    _other_length(own)

    assert again(own, tmp_path / "out").added == 1
    assert (tmp_path / "out" / "val" / "bee" / "0.jpg").read_bytes() == jpeg(7)
    assert list(check_files(open_dataset(tmp_path / "out"))) == []


def test_copies_of_images_that_are_gone_are_not_deleted(own: Path, tmp_path: Path) -> None:
    again(own, tmp_path / "out")
    _class_removed(own)

    with pytest.raises(DataError, match=r"8 images less than .*out.* \(e\.g\. train/bee/0\.jpg\)"):
        again(own, tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.jpg"))) == 16


@pytest.mark.parametrize("copied", [False, True])
def test_a_folder_that_was_renamed_is_the_same_data_set(own: Path, tmp_path: Path, copied: bool) -> None:
    before = again(own, tmp_path / "out" if copied else None).metadata
    moved = own.rename(tmp_path / "elsewhere")

    made = again(moved, tmp_path / "out" if copied else None)

    assert (made.made, made.metadata["name"], made.metadata["digest"]) == (False, "own", before["digest"])
    if not copied:
        _images(moved)
        assert again(moved).metadata["name"] == "own"


def test_another_folder_or_name_is_another_data_set(own: Path, tmp_path: Path) -> None:
    again(own, tmp_path / "out")
    other = shutil.copytree(own, tmp_path / "other")
    _images(other)

    with pytest.raises(DataError, match="already holds the data set own"):
        again(other, tmp_path / "out")
    with pytest.raises(DataError, match="already holds the data set own"):
        again(own, tmp_path / "out", name="birds")


@pytest.mark.parametrize("copied", [False, True])
def test_an_image_never_changes_its_split_whatever_is_added(tmp_path: Path, copied: bool) -> None:
    own, out = tmp_path / "own", tmp_path / "out" if copied else None
    write(own, "ant", "bee", numbers=range(20))
    again(own, out, val_fraction=0.2)
    before = names(open_dataset(out or own))
    write(own, "ant", numbers=range(20, 40))
    write(own, "cow", numbers=range(10))

    made = again(own, out, val_fraction=0.2)

    after = names(open_dataset(out or own))
    assert all(before[split] <= after[split] for split in before)
    assert (made.added, made.metadata["counts"]) == (30, {"train": 56, "val": 14})
    assert not again(own, out, val_fraction=0.2).made


def test_files_that_cannot_be_used_do_not_move_either(tmp_path: Path) -> None:
    write(tmp_path / "own", "ant", numbers=range(20))
    for number in range(20):
        (tmp_path / "own" / "ant" / f"broken {number}.jpg").touch()
    before = again(tmp_path / "own", tmp_path / "out", val_fraction=0.5)

    made = again(tmp_path / "own", tmp_path / "out", val_fraction=0.5)
    assert (made.made, made.metadata["skipped"]) == (False, [list(one) for one in before.metadata["skipped"]])


@pytest.mark.parametrize("fraction", [None, 0.5])
def test_what_was_quarantined_stays_out_until_it_is_restored(
    own: Path, tmp_path: Path, fraction: float | None
) -> None:
    root = own if fraction is None else tmp_path / "flat"
    if fraction:
        write(root, "ant", "bee", numbers=range(8))
    again(root, val_fraction=fraction)
    dataset = open_dataset(root)
    bad = dataset.train.path(0)
    good = bad.read_bytes()
    bad.write_bytes(b"x")
    after = quarantine(dataset, list(check_files(dataset)))

    again(root, val_fraction=fraction)
    assert open_dataset(root).digest == after.digest
    assert list(check_files(open_dataset(root))) == []

    bad.write_bytes(good)
    assert again(root, val_fraction=fraction).metadata["digest"] == dataset.digest


def test_a_change_that_was_cut_off_is_made_by_the_next_call(
    own: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    before = again(own, out).metadata["digest"]
    _class(own)
    with monkeypatch.context() as patch:
        patch.setattr("trainer.dataset._preparation.os.sync", _interrupt)
        with pytest.raises(KeyboardInterrupt):
            again(own, out)
    assert open_dataset(out).digest == before

    assert again(own, out).metadata["digest"] == again(own, tmp_path / "fresh").metadata["digest"]


def _interrupt() -> None:
    raise KeyboardInterrupt
