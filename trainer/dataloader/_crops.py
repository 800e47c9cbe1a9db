"""Crop windows of training and validation images."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.config import Preprocess
from trainer.preprocess import MEAN, ROUNDING, STD, crop_corners, resized_sizes

CROP_ATTEMPTS = 10  # as in torchvision, before falling back to the centre
CROP_DRAWS = 4 * CROP_ATTEMPTS  # area, ratio, x and y for each attempt


def preprocessing(preprocess: Preprocess) -> dict[str, Any]:
    """The validation preprocessing as plain data, kept with registered models and bundles."""
    return {
        "val_resize": preprocess.val_resize,
        "val_size": preprocess.val_size,
        "interpolation": "bilinear with antialiasing",
        "rounding": ROUNDING,
        "orientation": "as stored; EXIF rotation is not applied",
        "channels": "RGB",
        "scale": 1 / 255,
        "mean": list(MEAN),
        "std": list(STD),
    }


def random_resized_crops(
    sizes: npt.NDArray[np.int64], draws: npt.NDArray[np.float64], preprocess: Preprocess
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Crop windows of random area and aspect ratio, distributed as torchvision's RandomResizedCrop.

    Args:
        sizes: (N, 2) width and height in pixels.
        draws: (N, CROP_DRAWS) uniform random numbers in [0, 1).
        preprocess: ranges of area (share of the image) and ratio (width / height).

    Returns: anchors (N, 2) as x and y, and shapes (N, 2) as width and height, in whole pixels.
    Source: torchvision.transforms.RandomResizedCrop.get_params; Szegedy et al. 2014, arXiv:1409.4842.
    """
    area, ratio, along_x, along_y = draws.reshape(len(sizes), 4, CROP_ATTEMPTS).transpose(1, 0, 2)
    width, height = sizes[:, :1].astype(np.float64), sizes[:, 1:].astype(np.float64)

    low, high = preprocess.crop_area
    target = width * height * (low + (high - low) * area)
    low, high = np.log(preprocess.crop_ratio)
    aspect = np.exp(low + (high - low) * ratio)
    w, h = np.round(np.sqrt(target * aspect)), np.round(np.sqrt(target / aspect))
    x, y = np.floor(along_x * (width - w + 1)), np.floor(along_y * (height - h + 1))
    fits = (w >= 1) & (w <= width) & (h >= 1) & (h <= height)

    row, first = np.arange(len(sizes)), fits.argmax(axis=1)
    found = fits[row, first][:, None]
    anchors = np.stack([x[row, first], y[row, first]], axis=1)
    shapes = np.stack([w[row, first], h[row, first]], axis=1)

    narrowest, widest = preprocess.crop_ratio
    centre = np.concatenate(
        [
            np.minimum(width, np.maximum(1, np.round(height * widest))),
            np.minimum(height, np.maximum(1, np.round(width / narrowest))),
        ],
        axis=1,
    )
    shapes = np.where(found, shapes, centre)
    anchors = np.where(found, anchors, np.floor((sizes - centre) / 2))
    return anchors.astype(np.float32), shapes.astype(np.float32)


def centre_crops(
    sizes: npt.NDArray[np.int64], preprocess: Preprocess
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Sizes of validation images after the resize, and where their centres are cut out, as torchvision does.

    DALI's own rounding differs by a pixel for some shapes, which shifts the whole crop.

    Args:
        sizes: (N, 2) width and height in pixels.
        preprocess: shorter side after resizing, and side of the crop.

    Returns: heights and widths after resizing (N, 2), and the crop's position on each axis (N, 2) as
        x and y, from 0 (left, top) to 1 (right, bottom).
    Source: torchvision.transforms.functional.resize and center_crop.
    """
    resized = resized_sizes(sizes, preprocess.val_resize)
    positions = crop_corners(resized, preprocess.val_size) / np.maximum(resized - preprocess.val_size, 1)
    return resized[:, ::-1].astype(np.float32), positions.astype(np.float32)
