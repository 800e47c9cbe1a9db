"""Crop windows."""

import numpy as np
import torch
from torchvision.transforms import RandomResizedCrop

from trainer.config import Images
from trainer.data import random_resized_crops, uniform
from trainer.data._preprocessing import DRAWS


def windows(width, height, images, count):
    sizes = np.tile([width, height], (count, 1))
    return random_resized_crops(sizes, uniform(0, 0, np.arange(count), DRAWS), images)


def test_windows_lie_inside_the_image():
    for width, height in [(500, 375), (30, 900), (1, 1), (2000, 20)]:
        anchors, shapes = windows(width, height, Images(), 500)

        assert (anchors >= 0).all()
        assert (shapes >= 1).all()
        assert (anchors + shapes <= [width, height]).all()


def test_windows_are_distributed_as_torchvisions():
    ours = np.concatenate(windows(500, 375, Images(), 4000), axis=1)
    torch.manual_seed(0)
    blank = torch.empty(3, 375, 500)
    drawn = [RandomResizedCrop.get_params(blank, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(4000)]
    theirs = np.array([(left, top, width, height) for top, left, height, width in drawn])

    for ours_of, theirs_of in zip(ours.T, theirs.T, strict=True):
        steps = np.quantile(theirs_of, np.linspace(0.05, 0.95, 10))
        shares = [(np.mean(ours_of <= s), np.mean(theirs_of <= s)) for s in steps]
        # Kolmogorov-Smirnov distance of 4,000 against 4,000 draws, at a chance of one in a million
        assert max(abs(a - b) for a, b in shares) < 2.7 * np.sqrt(2 / 4000)


def test_an_image_too_narrow_for_any_window_is_cropped_in_its_centre():
    anchors, shapes = windows(10, 1000, Images(crop_area=(0.9, 1.0)), 5)

    assert (shapes == [10, 13]).all()
    assert (anchors == [0, 493]).all()
