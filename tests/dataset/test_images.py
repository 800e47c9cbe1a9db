"""Sizes from headers, and smaller copies."""

from __future__ import annotations

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from tests.dataset.published import jpeg
from trainer.dataset import SPLITS, Resize, Source, SourceImage, open_dataset, prepare
from trainer.dataset._images import image_size


def png(width: int, height: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (width, height)).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (jpeg(0, width=31, height=17), (31, 17)),
        (png(7, 9), (7, 9)),
        (b"", "is empty"),
        (b"GIF89a......", "is a GIF; only JPEG, PNG and WebP are decoded"),
        (b"\xff\xd8\xff\xe0 and nothing more", "ends within its header"),
        (png(7, 9).replace(b"\0\0\0\x07\0\0\0\x09", b"\0\1\0\0\0\0\0\x09"), "is a PNG with a damaged header"),
    ],
    ids=["jpeg", "png", "empty", "gif", "cut", "damaged"],
)
def test_the_size_is_that_of_the_header_or_the_reason_why_there_is_none(
    data: bytes, size: tuple[int, int] | str
) -> None:
    assert image_size(data) == size


def pixels(data: bytes) -> npt.NDArray[np.float64]:
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.resize((60, 30)), dtype=float)


def test_larger_images_are_stored_smaller_and_the_others_untouched(tmp_path: Path) -> None:
    shapes = {"wide": (600, 300), "high": (210, 640), "small": (190, 300), "exact": (200, 500)}

    def images() -> Iterator[SourceImage]:
        for split in SPLITS:
            for seed, (name, (width, height)) in enumerate(shapes.items()):
                data = jpeg(seed, width=width, height=height)
                yield SourceImage(split, "a", f"{split}/a/{name}.JPEG", len(data), partial(bytes, data))

    made = prepare(Source("photos", images, 0), tmp_path / "out", resize=Resize(200, quality=90))

    dataset = open_dataset(tmp_path / "out")
    sizes = {dataset.train.path(i).stem: tuple(dataset.train.sizes[i]) for i in range(4)}
    assert sizes == {"wide": (400, 200), "high": (200, 610), "small": (190, 300), "exact": (200, 500)}
    for index in range(4):
        path = dataset.train.path(index)
        with Image.open(path) as image:
            assert image.size == sizes[path.stem]
    assert (tmp_path / "out/train/a/small.JPEG").read_bytes() == jpeg(2, width=190, height=300)
    assert made.metadata["options"] == {"shorter_side": 200, "quality": 90}
    smaller = pixels((tmp_path / "out/train/a/wide.JPEG").read_bytes())
    assert np.abs(smaller - pixels(jpeg(0, width=600, height=300))).mean() < 2
