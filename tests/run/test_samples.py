"""Images that go with a model."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from PIL import Image

from tests.conftest import write_photo
from tests.dataset.encoded import HEIGHT, WIDTH, encoded, with_text
from trainer.dataset import folder, open_dataset, prepare
from trainer.errors import DataError
from trainer.run._samples import samples_of

PREPROCESS = {"val_resize": 32, "val_size": 32, "mean": (0.5, 0.5, 0.5), "std": (0.2, 0.2, 0.2)}


@pytest.mark.parametrize(
    ("images", "names"), [(12, ["1", "2", "3", "4", "6", "7", "9", "11"]), (3, ["1", "2"])]
)
def test_where_pillow_cannot_read_an_image_the_next_one_is_taken(
    tmp_path: Path, images: int, names: list[str]
) -> None:
    """`prepare` looks at headers only, and DALI decodes what is cut off."""
    for split in ("train", "val"):
        for index in range(images):
            write_photo(tmp_path / split / "c" / f"{index:02d}.JPEG", seed=index)
    cut = tmp_path / "val" / "c" / "00.JPEG"
    cut.write_bytes(cut.read_bytes()[:-200])
    prepare(folder(tmp_path, out=tmp_path), tmp_path)

    found = samples_of(open_dataset(tmp_path).val, PREPROCESS)

    assert [one.name for one in found] == [f"{int(name):02d}.JPEG" for name in names]


def test_without_one_that_pillow_reads_there_is_no_model_to_try(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_photo(tmp_path / split / "c" / "0.JPEG")
    cut = tmp_path / "val" / "c" / "0.JPEG"
    cut.write_bytes(cut.read_bytes()[:-200])
    prepare(folder(tmp_path, out=tmp_path), tmp_path)

    with pytest.raises(
        DataError, match=r"can read none of the 1 validation images \(val/c/0.JPEG: .*truncated"
    ):
        samples_of(open_dataset(tmp_path).val, PREPROCESS)


def test_samples_carry_no_text_that_pillow_refuses(tmp_path: Path) -> None:
    for split in ("train", "val"):
        (tmp_path / split / "c").mkdir(parents=True)
        for behind in (False, True):
            png = with_text(encoded("PNG"), behind=behind)
            (tmp_path / split / "c" / f"{behind}.png").write_bytes(png)
        (tmp_path / split / "c" / "photo.jpg").write_bytes(encoded())
    prepare(folder(tmp_path, out=tmp_path), tmp_path)

    samples = {one.name: one.jpeg for one in samples_of(open_dataset(tmp_path).val, PREPROCESS)}
    assert samples.keys() == {"False.png", "True.png", "photo.jpg"}
    assert samples["photo.jpg"] == encoded()
    for jpeg in samples.values():
        with Image.open(io.BytesIO(jpeg)) as image:
            image.load()
            assert image.size == (WIDTH, HEIGHT)
