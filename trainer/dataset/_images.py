"""Encoded images: which are usable, and smaller copies of large JPEGs."""

from __future__ import annotations

import io
from dataclasses import dataclass

from trainer.dataset._headers import Data, Refused, read_header

MAX_PIXELS = 100_000_000  # ImageNet's largest image has 61 million
MAX_SIDE = 65_535  # pixels; the manifest has 16 bits for a side
MAX_RATIO = (
    100  # of the sides: the shorter one is resized to a few hundred pixels, and the other grows with it
)

# Pillow is imported where it is used: hardly any image needs it.


@dataclass(frozen=True)
class Resize:
    """Store large images smaller."""

    shorter_side: int  # pixels; images whose shorter side is at most that stay as they are
    quality: int = 90  # JPEG quality of the smaller copies, 1 to 95

    def applies_to(self, size: tuple[int, int]) -> bool:
        """Whether an image of this width and height is stored smaller."""
        return min(size) > self.shorter_side

    def apply(self, data: Data) -> tuple[Data, tuple[int, int]]:
        """The smaller copy of a JPEG, and its width and height. Other formats and CMYK stay as they are.

        Raises: OSError, SyntaxError or ValueError if the image cannot be decoded.
        """
        from PIL import Image

        header = read_header(data)
        if header.format != "JPEG":
            return data, (header.width, header.height)
        with Image.open(io.BytesIO(data), formats=["JPEG"]) as image:
            if image.mode not in ("RGB", "L"):
                return data, image.size
            scale = self.shorter_side / min(image.size)
            size = (round(image.width * scale), round(image.height * scale))
            image.draft(None, size)  # libjpeg decodes to a half, a quarter or an eighth at once
            smaller = io.BytesIO()
            image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0).save(
                smaller, "JPEG", quality=self.quality
            )
        return smaller.getvalue(), size


def image_size(data: Data) -> tuple[int, int] | str:
    """Width and height of an image in pixels, from its header; or the reason why it is not usable."""
    try:
        header = read_header(data)
    except Refused as reason:
        return str(reason)
    width, height = header.width, header.height
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        return f"claims {width} x {height} pixels; a decompression bomb, or no photo to train on"
    if max(width, height) > MAX_RATIO * min(width, height):
        return f"is a strip of {width} x {height} pixels, more than {MAX_RATIO} times as long as wide"
    return width, height
