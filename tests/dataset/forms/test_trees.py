"""ImageNet and Tiny ImageNet unpacked, as people have them on disk: the same data sets as from the archives."""

from __future__ import annotations

import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import write_photo
from tests.dataset import published
from trainer.dataset import (
    Finding,
    check_files,
    fastai,
    folder,
    imagenet,
    open_dataset,
    prepare,
    quarantine,
    tiny_imagenet,
)
from trainer.errors import DataError

KAGGLE_VAL = "ILSVRC/Data/CLS-LOC/val"


def _kaggle(root: Path) -> Path:
    root.mkdir(parents=True)
    return published.unpacked(published.kaggle_zip(root.parent), root)


def _side_by_side(root: Path) -> Path:
    published.imagenet_folders(root, flat=True)
    for split in ("train", "val"):
        (root / split).rename(root / f"ILSVRC2012_img_{split}")
    return root


def _tiny(root: Path) -> Path:
    return published.unpacked(published.tiny_imagenet(root.parent), root)


def _tiny_sorted(root: Path) -> Path:
    """As a much copied script sorts val/."""
    val = _tiny(root) / "tiny-imagenet-200" / "val"
    for line in (val / "val_annotations.txt").read_text().splitlines():
        name, wnid = line.split("\t")[:2]
        (val / wnid / "images").mkdir(parents=True, exist_ok=True)
        os.rename(val / "images" / name, val / wnid / "images" / name)
    (val / "images").rmdir()
    return root


# What is on disk: how it is made, and its `images` in dataset.json.
IMAGENET: dict[str, tuple[Callable[[Path], Path], dict[str, str]]] = {
    "kaggle": (
        _kaggle,
        {"train": "ILSVRC/Data/CLS-LOC/train/{class}/{name}", "val": "ILSVRC/Data/CLS-LOC/val/{name}"},
    ),
    "kaggle, a folder below": (
        lambda root: _kaggle(root) / "ILSVRC",
        {"train": "Data/CLS-LOC/train/{class}/{name}", "val": "Data/CLS-LOC/val/{name}"},
    ),
    "kaggle, a folder above": (
        lambda root: _kaggle(root / "imagenet-object-localization-challenge").parent,
        {
            "train": "imagenet-object-localization-challenge/ILSVRC/Data/CLS-LOC/train/{class}/{name}",
            "val": "imagenet-object-localization-challenge/ILSVRC/Data/CLS-LOC/val/{name}",
        },
    ),
    "tar -x": (lambda root: published.imagenet_folders(root, flat=True), {"val": "val/{name}"}),
    "class folders": (published.imagenet_folders, {}),
    "the tars' names": (
        _side_by_side,
        {"train": "ILSVRC2012_img_train/{class}/{name}", "val": "ILSVRC2012_img_val/{name}"},
    ),
    "nested twice": (
        lambda root: published.imagenet_folders(root / "imagenet" / "imagenet").parents[1],
        {split: f"imagenet/imagenet/{split}/{{class}}/{{name}}" for split in ("train", "val")},
    ),
    "torchvision": (published.torchvision, {}),
    "imagenette": (
        lambda root: published.unpacked(published.fastai(root.parent), root),
        {split: f"imagenette2-320/{split}/{{class}}/{{name}}" for split in ("train", "val")},
    ),
}
TINY: dict[str, tuple[Callable[[Path], Path], dict[str, str]]] = {
    "tiny": (
        _tiny,
        {
            "train": "tiny-imagenet-200/train/{class}/images/{name}",
            "val": "tiny-imagenet-200/val/images/{name}",
        },
    ),
    "tiny, sorted": (
        _tiny_sorted,
        {split: f"tiny-imagenet-200/{split}/{{class}}/images/{{name}}" for split in ("train", "val")},
    ),
}


@pytest.fixture(scope="module")
def digests(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Of the same images from the archives."""
    folder = tmp_path_factory.mktemp("archives")
    sources = {
        "imagenet": imagenet(published.imagenet(folder), verify=False),
        "tiny": tiny_imagenet(published.tiny_imagenet(folder), verify=False),
        "imagenette": fastai("imagenette", published.fastai(folder), size="320", verify=False),
    }
    return {name: str(prepare(source, folder / name).metadata["digest"]) for name, source in sources.items()}


@pytest.mark.parametrize(
    ("layout", "kept"),
    [
        *((layout, "in place") for layout in [*IMAGENET, *TINY]),
        *itertools.product(["kaggle", "tar -x", "class folders", "tiny"], ["manifest", "copy"]),
    ],
)
def test_the_same_images_are_the_same_data_set_however_they_lie(
    layout: str, kept: str, digests: dict[str, str], tmp_path: Path
) -> None:
    make, patterns = (IMAGENET | TINY)[layout]
    root = make(tmp_path / "own")
    before = published_files(root)
    out = root if kept == "in place" else tmp_path / "out"

    metadata = prepare(folder(root, out=out, in_place=kept != "copy"), out).metadata

    made = open_dataset(out)
    assert made.digest == digests["tiny" if layout in TINY else "imagenet"]
    assert made.class_names[0] == "tench, Tinca tinca"
    assert (
        metadata.get("images", {})
        == {
            "in place": patterns,
            "manifest": {"root": str(root), **patterns},
            "copy": {},
        }[kept]
    )
    for split in (made.train, made.val):
        for index in range(len(split)):
            assert split.path(index).stat().st_size == split.rows["bytes"][index]
    here = published_files(root)
    assert here.items() >= before.items()
    added = {path for path in here if path not in before}
    assert len(added) == (2 if kept == "in place" else 0), added
    assert kept != "manifest" or len(list(out.iterdir())) == 2
    assert list(check_files(made)) == []

    assert not prepare(folder(root, out=out, in_place=kept != "copy"), out).made  # it is complete


def published_files(root: Path) -> dict[Path, float]:
    return {path: path.stat().st_mtime for path in root.rglob("*") if path.is_file()}


def test_imagenette_unpacked_is_the_data_set_of_its_archive(digests: dict[str, str]) -> None:
    assert digests["imagenette"] == digests["imagenet"]  # its images are those of the tests


def test_images_that_moved_are_found_by_the_same_command(tmp_path: Path) -> None:
    root, out = published.imagenet_folders(tmp_path / "disk", flat=True), tmp_path / "manifest"
    before = prepare(folder(root, out=out, in_place=True), out).metadata
    shutil.move(root, tmp_path / "new-disk")

    with pytest.raises(DataError, match=rf"were in {root}, and there is no such folder; .* --manifest {out}"):
        open_dataset(out)
    after = prepare(folder(tmp_path / "new-disk", out=out, in_place=True), out)

    assert (after.made, after.added, after.removed) == (True, 0, 0)
    made = open_dataset(out)
    assert (made.digest, made.name) == (before["digest"], "imagenet")
    assert made.val.path(0).is_file()


def test_a_folder_of_another_data_set_gets_no_manifest(tmp_path: Path) -> None:
    root, out = published.imagenet_folders(tmp_path / "disk"), tmp_path / "out"
    prepare(folder(root, out=out), out)
    with pytest.raises(DataError, match="already holds a data set with its images"):
        prepare(folder(root, out=out, in_place=True), out)

    shutil.rmtree(out)
    prepare(folder(root, out=out, in_place=True), out)
    with pytest.raises(DataError, match=f"already holds the manifest of images in {root}"):
        prepare(folder(root, out=out), out)

    write_photo(tmp_path / "mine" / "photo.jpg")
    with pytest.raises(DataError, match="is not empty"):
        prepare(folder(root, out=tmp_path / "mine", in_place=True), tmp_path / "mine")


def test_images_added_to_a_flat_val_are_seen_and_taken_in(tmp_path: Path) -> None:
    root = published.imagenet_folders(tmp_path / "own", flat=True)
    prepare(folder(root, out=root), root)
    more = next(name for name in published.val_names(each=3) if name not in published.val_names())
    write_photo(root / "val" / more)
    (root / "val" / "readme.txt").write_text("x")

    ignored: list[str] = []
    found = list(check_files(open_dataset(root), ignored=lambda one: ignored.append(one.path)))
    assert [(one.path, one.kind) for one in found] == [(f"val/{more}", "unlisted")]
    assert ignored == ["val/readme.txt"]

    assert prepare(folder(root, out=root), root).added == 1
    assert list(check_files(open_dataset(root))) == []


def test_bad_files_of_a_flat_val_are_moved_out_and_those_of_another_folder_are_not(tmp_path: Path) -> None:
    root, out = published.imagenet_folders(tmp_path / "own", flat=True), tmp_path / "manifest"
    prepare(folder(root, out=root), root)
    shutil.copytree(root, tmp_path / "other")
    (tmp_path / "other" / "dataset.json").unlink()
    prepare(folder(tmp_path / "other", out=out, in_place=True), out)

    def damaged(at: Path) -> list[Finding]:
        made = open_dataset(at)
        made.val.path(0).write_bytes(b"x")
        return [finding for finding in check_files(made) if finding.kind == "bad"]

    found = damaged(root)
    assert [one.path for one in found] == [open_dataset(root).val.name(0)]
    left = quarantine(open_dataset(root), found)
    assert (len(left.val), left.val.path(0).parent) == (5, root / "val")
    assert (root / "quarantine" / found[0].path).read_bytes() == b"x"
    assert list(check_files(open_dataset(root))) == []

    found = damaged(out)
    with pytest.raises(DataError, match=f"lie in {tmp_path / 'other'}, where nothing is moved"):
        quarantine(open_dataset(out), found)
    assert list(check_files(open_dataset(out))) == found


def test_a_files_place_costs_the_images_of_an_incomplete_train_nothing(tmp_path: Path) -> None:
    root = published.imagenet_folders(tmp_path / "own", flat=True)
    shutil.rmtree(root / "train" / published.WNIDS[1])

    with pytest.raises(
        DataError, match=rf"val has images of 1 class\(es\) that train lacks \({published.WNIDS[1]}\)"
    ):
        folder(root, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
