"""Encoded images: their size from the header, and smaller copies of large JPEGs."""

from __future__ import annotations

import io
import warnings
from dataclasses import dataclass

import simplejpeg

from trainer.dataset._archives import Data

MAX_PIXELS = 100_000_000  # ImageNet's largest image has 61 million
MAX_SIDE = 65_535  # pixels; the manifest has 16 bits for a side
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")

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

        with Image.open(io.BytesIO(data)) as image:
            if image.format != "JPEG" or image.mode not in ("RGB", "L"):
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
    """Width and height of a JPEG or PNG in pixels, from its header; or the reason why it is not usable."""
    if not data:
        return "is empty"
    if not bytes(data[:8]).startswith(SIGNATURES):
        return "is neither a JPEG nor a PNG"
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
    except ValueError:  # a PNG, or a JPEG too strange for that
        width, height = _size_by_pillow(data)
    if width < 1 or height < 1:
        return "has no size in its header"
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE:
        return f"claims {width} x {height} pixels; a decompression bomb, or no photo to train on"
    return width, height


def _size_by_pillow(data: Data) -> tuple[int, int]:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about a decompression bomb: the caller looks at the size
            with Image.open(io.BytesIO(data)) as image:
                return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return 0, 0
