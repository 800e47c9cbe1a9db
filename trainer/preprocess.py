"""The validation preprocessing: one definition for DALI's pipelines, torch's resize and the bundle's Pillow.

Whole numbers throughout, so that there is one rounding. Needs NumPy, and Pillow where an image is given.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from PIL import Image

# Channel statistics of ImageNet's training set for pixels in 0..1, as torchvision uses them.
MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
LUMA = (0.299, 0.587, 0.114)  # share of red, green and blue in the brightness that is seen; ITU-R BT.601

ROUNDING = "the longer side is val_resize * longer / shorter, rounded down"
MAX_TEXT = 100_000_000  # bytes of a PNG's compressed texts; some programs keep their whole project there


def resized_sizes(sizes: npt.ArrayLike, shorter: int) -> npt.NDArray[np.int64]:
    """Sizes (…, 2) of images after the resize of their shorter side to `shorter` pixels; the longer is rounded down.

    Source: torchvision.transforms.functional.resize.
    """
    sides = np.asarray(sizes, np.int64)
    resized: npt.NDArray[np.int64] = shorter * sides // sides.min(axis=-1, keepdims=True)
    return resized


def crop_corners(sizes: npt.ArrayLike, crop: int) -> npt.NDArray[np.int64]:
    """Left and top (…, 2) of the centre crop of `crop` pixels in images of these sizes (…, 2); halves to even.

    Source: torchvision.transforms.functional.center_crop.
    """
    corners: npt.NDArray[np.int64] = np.round((np.asarray(sizes, np.int64) - crop) / 2).astype(np.int64)
    return corners


def centre_crop(photo: Image.Image, *, resize: int, size: int) -> Image.Image:
    """What the network sees of an RGB photo: the middle `size` pixels after the shorter side is resized to `resize`."""
    from PIL import Image

    width, height = resized_sizes(photo.size, resize).tolist()
    resized = photo.resize((width, height), Image.Resampling.BILINEAR)  # antialiases when it shrinks
    left, top = crop_corners((width, height), size).tolist()
    return resized.crop((left, top, left + size, top + size))


def to_rgb(image: Image.Image) -> Image.Image:
    """An opened image as RGB with the pixels that DALI makes of it: alpha is dropped, 16 bits become 8.

    Pillow alone would make everything above 255 of 16 bits white.

    Raises: OSError, SyntaxError or ValueError if it cannot be decoded.
    """
    from PIL import Image, PngImagePlugin

    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY = MAX_TEXT
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a palette's transparency is dropped
        if image.mode.startswith("I"):
            grey = (np.asarray(image, np.int64).clip(0, 65_535) + 128) // 257
            image = Image.fromarray(grey.astype(np.uint8))
        return image.convert("RGB")
