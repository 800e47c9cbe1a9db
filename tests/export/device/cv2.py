"""Stands in for OpenCV: a camera that gives a photo, blue channel first, as often as CV2_FRAMES says."""

from __future__ import annotations

import os
from typing import Any

import numpy as np
from PIL import Image

CAP_GSTREAMER, COLOR_BGR2RGB = 1800, 4


class VideoCapture:
    """A camera."""

    def __init__(self, source: str | int, backend: int = 0) -> None:
        print(f"opened {source!r} {backend}")
        self._left = int(os.environ["CV2_FRAMES"])

    def isOpened(self) -> bool:
        """Whether it is there."""
        return self._left >= 0

    def read(self) -> tuple[bool, Any]:
        """The next frame."""
        self._left -= 1
        rgb = np.asarray(Image.open(os.environ["CV2_PHOTO"]).convert("RGB"))
        return self._left >= 0, rgb[..., ::-1]

    def release(self) -> None:
        """Give it back."""
        print("released")


def cvtColor(image: Any, code: int) -> Any:
    """From BGR to RGB."""
    assert code == COLOR_BGR2RGB
    return np.ascontiguousarray(image[..., ::-1])
