"""Pictures of the report: what the network saw of an image, with and without what its answer rests on."""

from __future__ import annotations

import base64
import io
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from trainer.config import Preprocess
from trainer.dataset import Split
from trainer.files import read_regular
from trainer.preprocess import MEAN, STD, centre_crop, to_rgb

if TYPE_CHECKING:
    from PIL import Image

SIDE = 160  # pixels of a picture in the page
QUALITY = 78  # of its JPEG

Heat = npt.NDArray[np.float32]
Explain = Callable[[npt.NDArray[np.float32], npt.NDArray[np.int64]], Heat | None]


@dataclass(frozen=True)
class Pictures:
    """Two pictures of one validation image, as addresses that hold the whole picture."""

    plain: str
    explained: str = ""  # with Grad-CAM; empty without


class Photographer:
    """Makes the pictures of validation images; each is read and explained once."""

    def __init__(self, split: Split, preprocess: Preprocess, explain: Explain | None) -> None:
        """Know the images.

        Args:
            split: the validation images.
            preprocess: as the network sees them.
            explain: from inputs (N, 3, H, W) and classes (N,) to maps (N, h, w) in 0..1; None: there is no network.
        """
        self._split, self._preprocess, self._explain = split, preprocess, explain
        self._made: dict[int, Pictures] = {}
        self.unreadable: list[str] = []  # images that are not as they were when the run was made
        self.places = ""  # size of the maps, as in "7 x 7"

    def make(self, indices: Sequence[int], classes: Sequence[int]) -> None:
        """Make the pictures of these images, with what speaks for these classes."""
        wanted = [
            (index, label) for index, label in zip(indices, classes, strict=True) if index not in self._made
        ]
        for at in range(0, len(wanted), 64):
            some = [
                (index, label, crop) for index, label in wanted[at : at + 64] if (crop := self._crop(index))
            ]
            if not some:
                continue
            heat = None
            if self._explain:
                inputs = np.stack([_as_input(crop) for _, _, crop in some])
                heat = self._explain(inputs, np.array([label for _, label, _ in some]))
            if heat is not None:
                self.places = f"{heat.shape[1]} x {heat.shape[2]}"
            for place, (index, _, crop) in enumerate(some):
                explained = "" if heat is None else _address(_overlaid(_shown(crop), heat[place]))
                self._made[index] = Pictures(_address(_shown(crop)), explained)

    def of(self, index: int) -> Pictures | None:
        """The pictures of an image; None if it could not be read."""
        return self._made.get(index)

    def _crop(self, index: int) -> Image.Image | None:
        from PIL import Image

        try:
            data = read_regular(self._split.path(index))
            if zlib.crc32(data) != int(self._split.rows["crc32"][index]):
                raise ValueError("it has changed")
            with Image.open(io.BytesIO(data)) as image:
                image.draft(
                    "RGB", (2 * self._preprocess.val_resize,) * 2
                )  # libjpeg decodes a large one smaller
                photo = to_rgb(image)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
            self.unreadable.append(self._split.name(index))
            return None
        return centre_crop(photo, resize=self._preprocess.val_resize, size=self._preprocess.val_size)


def _as_input(crop: Image.Image) -> npt.NDArray[np.float32]:
    pixels = np.asarray(crop, np.float32) / 255
    normalised = (pixels - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    return np.ascontiguousarray(normalised.transpose(2, 0, 1))


def _shown(crop: Image.Image) -> Image.Image:
    from PIL import Image

    # The pixels of a small image are left to be seen.
    small = crop.width < SIDE // 2
    return crop.resize((SIDE, SIDE), Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)


def _overlaid(picture: Image.Image, heat: Heat) -> Image.Image:
    """The picture, grey where nothing speaks for the answer and glowing where much does."""
    from PIL import Image

    large = np.asarray(
        Image.fromarray(heat).resize(picture.size, Image.Resampling.BILINEAR), np.float32
    ).clip(0, 1)[..., None]
    grey = np.asarray(picture.convert("L"), np.float32)[..., None].repeat(3, axis=2)
    glow = np.stack([np.interp(large[..., 0], _STOPS, channel) for channel in _GLOW.T], axis=2)
    mixed = grey * (1 - 0.65 * large) + glow * 0.65 * large
    return Image.fromarray(mixed.clip(0, 255).astype(np.uint8))


# Violet to yellow, lighter all the way: read alike by the colour-blind and in grey.
_STOPS = (0.0, 0.35, 0.7, 1.0)
_GLOW = np.array([(60, 20, 110), (180, 50, 120), (250, 140, 50), (255, 240, 130)], np.float64)


def _address(picture: Image.Image) -> str:
    data = io.BytesIO()
    picture.save(data, "JPEG", quality=QUALITY, optimize=True)
    return f"data:image/jpeg;base64,{base64.b64encode(data.getvalue()).decode()}"
