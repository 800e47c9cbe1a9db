"""From a JPEG to the network's input with Pillow and numpy alone, as on a Jetson."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from trainer.preprocess import centre_crop, to_rgb


def to_input(jpeg: bytes, preprocess: Mapping[str, Any]) -> npt.NDArray[np.float32]:
    """The network's input made of one image.

    Args:
        jpeg: an encoded image of any kind Pillow reads.
        preprocess: the model's preprocessing: val_resize, val_size (pixels), mean, std (of pixels in 0..1).

    Returns: (3, val_size, val_size), RGB, normalised.
    """
    with Image.open(io.BytesIO(jpeg)) as image:
        photo = to_rgb(image)
    crop = centre_crop(photo, resize=preprocess["val_resize"], size=preprocess["val_size"])
    pixels = np.asarray(crop, np.float32) / 255
    normalised = (pixels - np.float32(preprocess["mean"])) / np.float32(preprocess["std"])
    return np.ascontiguousarray(normalised.transpose(2, 0, 1), np.float32)
