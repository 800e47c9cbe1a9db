"""Crop windows."""

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop

from trainer.config import Preprocess
from trainer.dataloader import random_resized_crops, step_draws
from trainer.dataloader._crops import CROP_DRAWS

Floats = npt.NDArray[np.float32]


def windows(width: int, height: int, preprocess: Preprocess, count: int) -> tuple[Floats, Floats]:
    sizes = np.tile(np.array([width, height], np.int64), (count, 1))
    return random_resized_crops(sizes, step_draws(0, 0, count, CROP_DRAWS), preprocess)


def test_windows_lie_inside_the_image() -> None:
    for width, height in [(500, 375), (30, 900), (1, 1), (2000, 20)]:
        anchors, shapes = windows(width, height, Preprocess(), 500)

        assert (anchors >= 0).all()
        assert (shapes >= 1).all()
        assert (anchors + shapes <= [width, height]).all()


@pytest.mark.parametrize("count", [20_000, pytest.param(100_000, marks=pytest.mark.slow)])
def test_windows_are_distributed_as_torchvisions(count: int) -> None:
    ours = np.concatenate(windows(500, 375, Preprocess(), count), axis=1)
    torch.manual_seed(0)
    blank = torch.empty(3, 375, 500)
    drawn = [RandomResizedCrop.get_params(blank, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    theirs = np.array([(left, top, width, height) for top, left, height, width in drawn])
    measures: dict[str, Callable[[npt.NDArray[Any]], npt.NDArray[Any]]] = {
        "left": lambda w: w[:, 0],
        "top": lambda w: w[:, 1],
        "area": lambda w: w[:, 2] * w[:, 3],
        "aspect": lambda w: w[:, 2] / w[:, 3],
    }

    for name, of in measures.items():
        # The chance of a distance like this between draws of one distribution is one in a million.
        assert ks_2samp(of(ours), of(theirs)).pvalue > 1e-6, name


def test_an_image_too_narrow_for_any_window_is_cropped_in_its_centre() -> None:
    anchors, shapes = windows(10, 1000, Preprocess(crop_area=(0.9, 1.0)), 5)

    assert (shapes == [10, 13]).all()
    assert (anchors == [0, 493]).all()
