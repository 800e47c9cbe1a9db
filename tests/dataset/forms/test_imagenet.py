"""ImageNet's two tars."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.dataset import published
from tests.dataset.published import jpeg, tar_of
from trainer.dataset import Source, imagenet, prepare
from trainer.dataset._archives import members
from trainer.errors import DataError

FORMS: dict[str, Callable[[Path], Source]] = {
    "two tars": lambda folder: imagenet(published.imagenet(folder), verify=False),
    "the other way round": lambda folder: imagenet(published.imagenet(folder)[::-1], verify=False),
    "with the devkit": lambda folder: imagenet(
        published.imagenet(folder), devkit=published.devkit(folder), verify=False
    ),
}


@pytest.mark.parametrize("form", FORMS)
def test_the_images_come_out_byte_for_byte_in_their_classes(tmp_path: Path, form: str) -> None:
    published.check_images_come_out_byte_for_byte(FORMS[form](tmp_path), tmp_path / "out")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda: [("n01440764.tar", b""), ("n99999999.tar", b"")], "n99999999.tar.* is not the tar of one"),
        (lambda: [("n01440764.tar", tar_of([("n02102040_1.JPEG", jpeg(1))]))], "not an image of that class"),
        (lambda: [("n01440764.tar", tar_of([("../../x.JPEG", jpeg(1))]))], "not an image of that class"),
        (lambda: [("n01440764.tar", tar_of([("/etc/x.JPEG", jpeg(1))]))], "not an image of that class"),
        (
            lambda: [
                ("n01440764.tar", tar_of([("n01440764_1.JPEG", jpeg(1)), ("n01440764_1.JPEG", jpeg(2))]))
            ],
            "n01440764_1.JPEG twice",
        ),
    ],
)
def test_a_tar_that_is_not_imagenets_is_refused(
    tmp_path: Path, change: Callable[[], list[tuple[str, bytes]]], says: str
) -> None:
    train, val = published.imagenet(tmp_path)
    files = change()
    train.write_bytes(tar_of([(name, data or tar_of([])) for name, data in files]))

    with pytest.raises(DataError, match=says):
        prepare(imagenet([train, val], verify=False), tmp_path / "out")
    assert not (tmp_path / "out" / "dataset.json").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == [train.name, val.name, "out"]


def test_two_tars_without_classes_are_refused(tmp_path: Path) -> None:
    _, val = published.imagenet(tmp_path)

    with pytest.raises(DataError, match="neither"):
        imagenet([val, val], verify=False)


def test_only_the_published_archives_are_taken_unless_told_otherwise(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"the published ILSVRC2012_img_train.tar has 147,897,477,120.*--no-md5"
    ):
        imagenet(published.imagenet(tmp_path))


def _renamed(change: Callable[[str], str]) -> Callable[[Path], list[tuple[str, bytes]]]:
    return lambda path: [(change(one.name), bytes(one.read())) for one in members(path)]


def _of_macos(path: Path) -> list[tuple[str, bytes]]:
    files = [(one.name, bytes(one.read())) for one in members(path)]
    apple = [(f"._{name}", b"\0\5\26\7" + bytes(160)) for name, _ in files]
    return [(".DS_Store", b"\0\0\0\1Bud1"), *(one for pair in zip(apple, files, strict=True) for one in pair)]


def _class_folders(path: Path) -> list[tuple[str, bytes]]:
    if "_val" in path.name:
        return [(one.name, bytes(one.read())) for one in members(path)]
    return [
        (f"train/{tar.name[:-4]}/{one.name}", bytes(one.read()))
        for tar in members(path)
        for one in tar.nested()
    ]


@pytest.mark.parametrize(
    "pack",
    [
        _renamed(lambda name: f"./{name}"),
        _renamed(lambda name: f"ILSVRC2012/{'val' if 'val' in name else 'train'}/{name}"),
        _of_macos,
        _class_folders,
    ],
    ids=["tar -C DIR .", "top folders", "macOS", "class folders"],
)
def test_tars_that_somebody_packed_again_yield_the_same_images(
    tmp_path: Path, pack: Callable[[Path], list[tuple[str, bytes]]]
) -> None:
    archives = published.imagenet(tmp_path)
    for path in archives:
        path.write_bytes(tar_of(pack(path)))

    published.check_images_come_out_byte_for_byte(imagenet(archives[::-1], verify=False), tmp_path / "out")


def test_a_devkit_that_is_none_is_refused_in_a_sentence(tmp_path: Path) -> None:
    kit = tmp_path / "devkit.tar"
    kit.write_bytes(
        tar_of([("meta.mat", b"no matrix" * 99), ("ILSVRC2012_validation_ground_truth.txt", b"1\n")])
    )

    with pytest.raises(DataError, match="does not hold the labels of the published"):
        prepare(imagenet(published.imagenet(tmp_path), devkit=kit, verify=False), tmp_path / "out")
