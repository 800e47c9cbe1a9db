"""What lies at a path, and the form that takes it."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import pytest

from tests.conftest import write_photo
from tests.dataset import published
from trainer.dataset import recognise
from trainer.errors import DataError


def _tars(folder: Path, *, devkit: bool = False) -> Path:
    published.imagenet(folder)
    if devkit:
        published.devkit(folder)
    return folder


def _renamed(archive: Path) -> Path:
    return archive.rename(archive.with_name("data" + "".join(archive.suffixes)))


def _tars_renamed(folder: Path) -> Path:
    for path, name in zip(published.imagenet(folder), ("a.tar", "b.tar"), strict=True):
        path.rename(folder / name)
    return folder


def _cached(folder: Path) -> Path:
    published.huggingface_parquet(folder / "datasets--ILSVRC--imagenet-1k" / "snapshots" / "0123abc")
    return folder


def _class_folders(folder: Path) -> Path:
    for name in ("ant", "bee"):
        write_photo(folder / name / "0.jpg")
    return folder


# How it is made; the form, what is said of it, and the arguments behind the form, with % for the folder.
KNOWN: dict[str, tuple[Callable[[Path], Path], str, str, str]] = {
    "two tars": (
        _tars,
        "imagenet",
        "two tars of image-net.org",
        "%/ILSVRC2012_img_train.tar %/ILSVRC2012_img_val.tar",
    ),
    "two tars and a devkit, as torchvision wants them": (
        lambda folder: _tars(folder, devkit=True),
        "imagenet",
        "with their devkit",
        "%/ILSVRC2012_img_train.tar %/ILSVRC2012_img_val.tar --devkit %/ILSVRC2012_devkit_t12.tar.gz",
    ),
    "two tars of other names": (_tars_renamed, "imagenet", "two tars", "%/a.tar %/b.tar"),
    "Hugging Face's Parquet files": (
        published.huggingface_parquet,
        "huggingface",
        "ImageNet in 6 shards",
        "%",
    ),
    "Hugging Face's tar.gz": (
        published.huggingface_tar_gz,
        "huggingface",
        "shards of the Hugging Face Hub",
        "%",
    ),
    "WebDataset's shards": (published.huggingface_webdataset, "huggingface", "ImageNet in 5 shards", "%"),
    "the Hub's cache": (
        lambda folder: _cached(folder),
        "huggingface",
        "shards of the Hugging Face Hub",
        "%",
    ),
    "one of the two tars": (
        lambda folder: published.imagenet(folder)[1],
        "imagenet",
        "two tars",
        "%/ILSVRC2012_img_train.tar %/ILSVRC2012_img_val.tar",
    ),
    "kaggle's zip": (
        published.kaggle_zip,
        "kaggle",
        "Kaggle",
        "%/imagenet-object-localization-challenge.zip",
    ),
    "a folder of kaggle's zip": (
        lambda folder: published.kaggle_zip(folder).parent,
        "kaggle",
        "Kaggle",
        "%/imagenet-object-localization-challenge.zip",
    ),
    "kaggle's zip of another name": (
        lambda folder: _renamed(published.kaggle_zip(folder)),
        "kaggle",
        "Kaggle",
        "%/data.zip",
    ),
    "the tar of ILSVRC2017": (published.kaggle_tar, "kaggle", "Kaggle", "%/ILSVRC2017_CLS-LOC.tar.gz"),
    "imagenette": (published.fastai, "imagenette", "10 classes", "%/imagenette2-320.tgz --size 320"),
    "imagewoof of another name": (
        lambda folder: _renamed(published.fastai(folder, name="imagewoof", size="")),
        "imagewoof",
        "10 classes",
        "%/data.tgz --size full",
    ),
    "tiny": (published.tiny_imagenet, "tiny-imagenet", "200 classes", "%/tiny-imagenet-200.zip"),
    "tiny of another name": (
        lambda folder: _renamed(published.tiny_imagenet(folder)),
        "tiny-imagenet",
        "200",
        "%/data.zip",
    ),
    "class folders": (published.imagenet_folders, "folder", "3 classes, in train/ and val/", "%"),
    "torchvision's root": (published.torchvision, "folder", "3 classes, in train/ and val/", "%"),
    "flat val": (
        lambda folder: published.imagenet_folders(folder, flat=True),
        "folder",
        "ImageNet, 3 classes, in train/ and val/, which is flat and has known labels",
        "%",
    ),
    "kaggle's folders": (
        lambda folder: published.unpacked(published.kaggle_zip(folder), folder),
        "folder",
        "ImageNet, 3 classes, in ILSVRC/Data/CLS-LOC/train/ and ILSVRC/Data/CLS-LOC/val/, which is flat",
        "%",
    ),
    "tiny unpacked": (
        lambda folder: published.unpacked(published.tiny_imagenet(folder), folder),
        "folder",
        "Tiny ImageNet, 3 classes, in tiny-imagenet-200/train/",
        "%",
    ),
    "class folders without val": (_class_folders, "folder", "2 class folders and no val/", "%"),
}


@pytest.mark.parametrize("layout", KNOWN)
def test_what_lies_at_a_path_is_recognised(layout: str, tmp_path: Path) -> None:
    make, form, what, arguments = KNOWN[layout]

    found = recognise(str(make(tmp_path)))

    assert found[0].name == form
    assert what in found[1].what
    assert " ".join(found[1].arguments) == arguments.replace("%", str(tmp_path))


@pytest.mark.parametrize(
    ("url", "form"),
    [
        ("https://s3.amazonaws.com/fast-ai-imageclas/imagenette2-160.tgz", "imagenette"),
        ("http://cs231n.stanford.edu/tiny-imagenet-200.zip", "tiny-imagenet"),
        ("s3://bucket/archives/imagenet-object-localization-challenge.zip", "kaggle"),
        ("https://host/ILSVRC2017_CLS-LOC.tar.gz?token=a/b", "kaggle"),
    ],
)
def test_a_url_is_recognised_by_its_name(url: str, form: str) -> None:
    found = recognise(url)

    assert (found[0].name, found[1].arguments[0]) == (form, url)


def _train_tar_alone(folder: Path) -> Path:
    published.imagenet(folder)[1].unlink()
    return folder


def _several(folder: Path) -> Path:
    published.fastai(folder)
    published.kaggle_tar(folder)
    return folder


def _splits(*names: str) -> Callable[[Path], Path]:
    def splits(folder: Path) -> Path:
        for name in names:
            write_photo(folder / name / "ant" / "0.jpg")
        return folder

    return splits


def _text(folder: Path) -> Path:
    (folder / "notes.tar").write_text("version https://git-lfs.github.com/spec/v1")
    return folder / "notes.tar"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda folder: folder, "a folder of nothing, is none of the forms"),
        (
            lambda folder: folder / "nowhere",
            "there is no .*nowhere; give a folder of images, an archive or its URL",
        ),
        (_train_tar_alone, "and not the other of the two tars, ILSVRC2012_img_val.tar; put it beside"),
        (
            _several,
            "holds several data sets; say which:\n  trainer prepare kaggle .*\n  trainer prepare imagenette .* 320",
        ),
        (
            _splits("Train", "Val"),
            "but Train, Val; rename the two to train and val, or make a folder with links",
        ),
        (_splits("train"), "but only train; rename .* or let a part of train validate"),
        (
            _splits("train", "validation"),
            "but only train, validation; rename the folder that validates to val",
        ),
        (_splits("a/train", "a/val", "b/train", "b/val"), "; a, b in it have; give one of them, e.g. .*/a"),
        (
            lambda folder: _splits("train", "val")(folder) / "train",
            "one of the two; give the folder that holds both",
        ),
        (_splits("a{class}b/train", "a{class}b/val"), "has braces in its name; give that folder itself"),
        (_text, "is a Git LFS pointer"),
    ],
)
def test_what_is_not_known_is_told_with_what_to_do(
    make: Callable[[Path], Path], says: str, tmp_path: Path
) -> None:
    with pytest.raises(DataError, match=says):
        recognise(str(make(tmp_path)))


def test_what_is_not_known_at_all_is_answered_with_what_is(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")

    with pytest.raises(DataError) as error:
        recognise(str(tmp_path))

    first, *known = str(error.value).splitlines()
    assert "a folder of thesis.tex, is none of the forms that are known" in first
    assert {line.split()[0] for line in known} >= {
        "imagenet",
        "kaggle",
        "imagenette",
        "tiny-imagenet",
        "folder",
    }


def test_nothing_is_walked_to_see_what_is_there(tmp_path: Path) -> None:
    """Of 40 classes, the folders of two are listed, and no image is looked at."""
    for number in range(40):
        for split in ("train", "val"):
            write_photo(tmp_path / split / f"n{number:08d}" / "0.JPEG")

    with mock.patch("os.scandir", wraps=os.scandir) as listed, mock.patch("os.stat", wraps=os.stat) as looked:
        recognise(str(tmp_path))

    assert listed.call_count < 10
    assert not any("JPEG" in str(call) for call in looked.call_args_list)


def test_a_folder_of_many_shards_is_not_opened_file_by_file(tmp_path: Path) -> None:
    data = published.tar_of([("0.txt", b"x")])
    for number in range(1000):
        (tmp_path / f"shard-{number:04d}.tar").write_bytes(data)

    with (
        mock.patch("os.open", wraps=os.open) as opened,
        pytest.raises(DataError, match="is none of the forms"),
    ):
        recognise(str(tmp_path))

    assert len({str(call.args[0]) for call in opened.call_args_list if "shard" in str(call.args[0])}) == 20
