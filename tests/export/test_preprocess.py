"""A golden input is what validation saw of the same file."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import ALONE, torchvisions_preprocessing, write_photo
from tests.export.conftest import photo
from tests.test_preprocess import odd_images
from trainer.config import Preprocess
from trainer.dataloader import STD, ValLoader, preprocessing
from trainer.dataset import folder, open_dataset, prepare
from trainer.export import to_input

SHAPES = [(100, 65), (65, 100), (64, 99), (99, 64), (72, 72), (40, 41), (333, 500), (500, 333), (71, 90)]
SHAPES += [(65 + 7 * number, 101 - 3 * number) for number in range(11)]


@pytest.mark.parametrize(("width", "height"), [(90, 70), (70, 90), (41, 40), (20, 30), (300, 200)])
def test_pixels_are_those_of_torchvision(width: int, height: int) -> None:
    preprocess, data = Preprocess(val_resize=40, val_size=32), photo(7, width, height)

    ours = to_input(data, preprocessing(preprocess))

    theirs = torchvisions_preprocessing(preprocess)(Image.open(io.BytesIO(data)))
    assert ours.shape == (3, 32, 32)
    assert ours.dtype == np.float32
    np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-5)


def test_golden_inputs_are_what_validation_saw_to_a_level(tmp_path: Path) -> None:
    """Of all shapes and kinds of files. To a level: two resizes and two decoders round."""
    for part in ("train", "val"):
        for index, (width, height) in enumerate(SHAPES):
            write_photo(tmp_path / part / "photos" / f"{index}.JPEG", width=width, height=height, seed=index)
        (tmp_path / part / "odd").mkdir()
        for name, data in odd_images().items():
            ending = "jpg" if data.startswith(b"\xff\xd8") else "png"
            (tmp_path / part / "odd" / f"{name}.{ending}").write_bytes(data)
    prepare(folder(tmp_path, out=tmp_path), tmp_path)
    val, preprocess = open_dataset(tmp_path).val, Preprocess(val_resize=72, val_size=64)
    assert len(val) == len(SHAPES) + len(odd_images())

    levels = 255 * torch.tensor(STD)[:, None, None]
    for batch in ValLoader(val, preprocess, ALONE, batch=7):
        assert batch.indices is not None
        for index, seen in zip(batch.indices.tolist(), batch.images, strict=True):
            golden = torch.from_numpy(to_input(val.path(index).read_bytes(), preprocessing(preprocess)))
            differences = (golden - seen).abs() * levels

            assert differences.mean() < 0.5, val.name(index)
            assert differences.max() < 2.01, val.name(index)
