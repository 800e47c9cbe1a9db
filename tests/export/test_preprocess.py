"""Preprocessing by Pillow and numpy is torchvision's."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from tests.export.conftest import PREPROCESS, photo
from trainer.export import to_input


@pytest.mark.parametrize(("width", "height"), [(90, 70), (70, 90), (41, 40), (20, 30), (300, 200)])
def test_pixels_are_those_of_torchvision(width: int, height: int) -> None:
    data = photo(7, width, height)
    torchvision_does = v2.Compose(
        [
            v2.Resize(40, interpolation=v2.InterpolationMode.BILINEAR),
            v2.CenterCrop(32),
            v2.PILToTensor(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(PREPROCESS["mean"], PREPROCESS["std"]),
        ]
    )

    ours = to_input(data, PREPROCESS)

    # It rounds the longer side down and we to the nearest: up to half a pixel apart.
    theirs = torchvision_does(Image.open(io.BytesIO(data)).convert("RGB")).numpy()
    assert ours.shape == (3, 32, 32)
    assert ours.dtype == np.float32
    assert np.abs(ours - theirs).mean() < 0.05
    if width * 40 % min(width, height) == height * 40 % min(width, height) == 0:
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
