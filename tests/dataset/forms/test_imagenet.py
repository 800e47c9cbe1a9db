"""ImageNet's two tars."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.dataset import published
from tests.dataset.published import jpeg, tar_of
from trainer.dataset import Source, imagenet, prepare
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
