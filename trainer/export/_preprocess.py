"""From a JPEG to the network's input with Pillow and numpy alone, as on a Jetson."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from trainer.preprocess import centre_crop, to_rgb

Input = npt.NDArray[np.float32]  # (3, val_size, val_size), RGB, normalised


def to_input(jpeg: bytes, preprocess: Mapping[str, Any]) -> Input:
    """The network's input made of one image.

    Args:
        jpeg: an encoded image of any kind Pillow reads.
        preprocess: the model's preprocessing: val_resize, val_size (pixels), mean, std (of pixels in 0..1).

    Returns: (3, val_size, val_size), RGB, normalised.
    """
    return _cropped(_decode(jpeg), preprocess)


def to_both_inputs(jpeg: bytes, preprocess: Mapping[str, Any]) -> tuple[Input, Input]:
    """As `to_input`, and what jetson-inference makes of the same image: all of it, squashed to the input's size.

    That samples points, without any filter.
    Source: github.com/dusty-nv/jetson-inference, c/tensorConvert.cu (gpuTensorNormMean), commit 82840af.
    """
    photo, size = _decode(jpeg), preprocess["val_size"]
    pixels = np.asarray(photo)
    rows, columns = (
        (np.arange(size, dtype=np.float32) * (np.float32(side) / np.float32(size))).astype(np.int64)
        for side in pixels.shape[:2]
    )
    return _cropped(photo, preprocess), _normalised(pixels[rows[:, None], columns], preprocess)


def _decode(jpeg: bytes) -> Image.Image:
    with Image.open(io.BytesIO(jpeg)) as image:
        return to_rgb(image)


def _cropped(photo: Image.Image, preprocess: Mapping[str, Any]) -> Input:
    crop = centre_crop(photo, resize=preprocess["val_resize"], size=preprocess["val_size"])
    return _normalised(np.asarray(crop), preprocess)


def _normalised(pixels: npt.NDArray[np.uint8], preprocess: Mapping[str, Any]) -> Input:
    shares = pixels.astype(np.float32) / 255
    normalised = (shares - np.float32(preprocess["mean"])) / np.float32(preprocess["std"])
    return np.ascontiguousarray(normalised.transpose(2, 0, 1), np.float32)
