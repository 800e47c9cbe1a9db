"""Crop windows."""

import numpy as np
import torch
from scipy.stats import ks_2samp
from torchvision.transforms import RandomResizedCrop

from trainer.config import Preprocess
from trainer.dataloader import random_resized_crops, uniform
from trainer.dataloader._crops import DRAWS


def windows(width, height, images, count):
    sizes = np.tile([width, height], (count, 1))
    return random_resized_crops(sizes, uniform(0, 0, np.arange(count), DRAWS), images)


def test_windows_lie_inside_the_image():
    for width, height in [(500, 375), (30, 900), (1, 1), (2000, 20)]:
        anchors, shapes = windows(width, height, Preprocess(), 500)

        assert (anchors >= 0).all()
        assert (shapes >= 1).all()
        assert (anchors + shapes <= [width, height]).all()


def test_windows_are_distributed_as_torchvisions():
    count = 100_000
    ours = np.concatenate(windows(500, 375, Preprocess(), count), axis=1)
    torch.manual_seed(0)
    blank = torch.empty(3, 375, 500)
    drawn = [RandomResizedCrop.get_params(blank, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(count)]
    theirs = np.array([(left, top, width, height) for top, left, height, width in drawn])

    for name, of in {
        "left": lambda w: w[:, 0],
        "top": lambda w: w[:, 1],
        "area": lambda w: w[:, 2] * w[:, 3],
        "aspect": lambda w: w[:, 2] / w[:, 3],
    }.items():
        # The chance of a distance like this between draws of one distribution is one in a million.
        assert ks_2samp(of(ours), of(theirs)).pvalue > 1e-6, name


def test_half_of_the_images_are_mirrored():
    flips = uniform(0, 0, np.arange(100_000), DRAWS + 1)[:, DRAWS] < 0.5

    assert abs(flips.mean() - 0.5) < 4.9 * 0.5 / np.sqrt(100_000), "one in a million"


def test_an_image_too_narrow_for_any_window_is_cropped_in_its_centre():
    anchors, shapes = windows(10, 1000, Preprocess(crop_area=(0.9, 1.0)), 5)

    assert (shapes == [10, 13]).all()
    assert (anchors == [0, 493]).all()
