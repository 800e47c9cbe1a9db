"""What else happens to the pixels of a training crop, in DALI's graph.

DALI's own RandAugment, TrivialAugment and jitter draw from generators inside the graph, whose state would be lost
with the process. Here the numbers come from outside, as pure functions of (seed, epoch, sample), and DALI does to the
pixels what they say.
"""

# DALI makes its enums and operators at run time and types few of them.
# mypy: disable-error-code="attr-defined,no-untyped-call,no-any-return"

from __future__ import annotations

from typing import Any, ClassVar, Protocol

import numpy as np
import numpy.typing as npt
from nvidia.dali import fn, types
from nvidia.dali.auto_aug import augmentations as dali
from nvidia.dali.auto_aug.core import select, signed_bin
from nvidia.dali.auto_aug.rand_augment import get_rand_augment_suite
from nvidia.dali.auto_aug.trivial_augment import get_trivial_augment_wide_suite

from trainer.config import Preprocess
from trainer.dataloader._crops import MEAN

BINS = 31  # steps of magnitude, 0 to 30
FILL = 128  # what comes in from outside of the image
ATTEMPTS = 10  # at a rectangle that fits, as in torchvision
AREA, RATIO = (0.02, 0.33), (0.3, 3.3)  # of erased rectangles: share of the image, height / width

Draws = npt.NDArray[np.float64]


class Augmentation(Protocol):
    """A change of pixels that takes some numbers for each image."""

    @property
    def draws(self) -> int:
        """Uniform numbers that an image needs."""

    @property
    def kind(self) -> tuple[Any, int]:
        """DALI's type of what `numbers` makes of them, and its dimensions for one image."""

    def numbers(self, draws: Draws, size: int) -> npt.NDArray[Any]:
        """What the graph gets: (N, …) from (N, draws) uniform numbers, for images of this size."""

    def __call__(self, pixels: Any, numbers: Any, size: int) -> Any:
        """Pixels (H, W, 3) uint8 of a node, changed; `numbers` is a node as well."""


def make_augmentations(preprocess: Preprocess) -> list[Augmentation]:
    """The augmentations that a recipe asks for, in the order of torchvision's references."""
    chosen: list[Augmentation] = []
    if any(preprocess.color_jitter):
        chosen.append(ColorJitter(preprocess.color_jitter))
    if preprocess.augment == "randaugment":
        suite = get_rand_augment_suite(use_shape=True)
        chosen.append(
            OneOf(suite, times=preprocess.randaugment_ops, magnitude=preprocess.randaugment_magnitude)
        )
    if preprocess.augment == "trivialaugment":
        chosen.append(OneOf(get_trivial_augment_wide_suite(), times=1, magnitude=None))
    if preprocess.erasing:
        chosen.append(Erasing(preprocess.erasing))
    return chosen


class OneOf:
    """Some operations one after the other, each drawn from a suite, of a magnitude given or drawn.

    Source: RandAugment, Cubuk et al. 2019, arXiv:1909.13719; TrivialAugment, Müller and Hutter 2021, arXiv:2103.10158;
    operations and their ranges are DALI's (nvidia.dali.auto_aug), which are those of the papers.
    """

    def __init__(self, suite: list[Any], *, times: int, magnitude: int | None) -> None:
        self._suite, self._times, self._magnitude = suite, times, magnitude
        self.draws = 3 * times
        self.kind = (types.INT32, 2)

    def numbers(self, draws: Draws, size: int) -> npt.NDArray[np.int32]:
        """(N, times, 3): which operation, its magnitude from 0 to 30, and 1 if that is to be negated."""
        most = np.array([len(self._suite), BINS, 2])
        made: npt.NDArray[np.int32] = np.floor(draws.reshape(len(draws), self._times, 3) * most).astype(
            np.int32
        )
        if self._magnitude is not None:
            made[:, :, 1] = self._magnitude
        return made

    def __call__(self, pixels: Any, numbers: Any, size: int) -> Any:
        """Pixels after all operations."""
        for turn in range(self._times):
            pixels = select(
                self._suite,
                numbers[turn, 0],
                data=pixels,
                magnitude_bin=signed_bin(numbers[turn, 1], random_sign=numbers[turn, 2]),
                num_magnitude_bins=BINS,
                fill_value=FILL,
                shape=(size, size),
            )
        return pixels


class ColorJitter:
    """Brightness, contrast, saturation and hue, changed in this order (torchvision draws the order).

    Source: torchvision.transforms.ColorJitter; hue is turned in YIQ as DALI does, where torchvision uses HSV.
    """

    draws = 4
    kind: ClassVar[tuple[Any, int]] = (types.FLOAT, 1)

    def __init__(self, strength: tuple[float, float, float, float]) -> None:
        self._strength = np.array(strength)

    def numbers(self, draws: Draws, size: int) -> npt.NDArray[np.float32]:
        """(N, 4): three factors of at least 0, and degrees."""
        made = (2 * draws - 1) * self._strength
        made[:, :3] = np.maximum(0, 1 + made[:, :3])
        made[:, 3] *= 360
        return made.astype(np.float32)

    def __call__(self, pixels: Any, numbers: Any, size: int) -> Any:
        """Pixels after all four."""
        for turn, change in enumerate((dali.brightness.op, dali.contrast.op, dali.color.op)):
            if self._strength[turn]:
                pixels = change(pixels, numbers[turn])
        return fn.hue(pixels, hue=numbers[3]) if self._strength[3] else pixels


class Erasing:
    """A random rectangle in some images, painted in the mean colour.

    Source: Zhong et al. 2017, arXiv:1708.04896; torchvision.transforms.RandomErasing, whose value 0 after the
    normalisation is the mean.
    """

    draws = 1 + 4 * ATTEMPTS
    kind: ClassVar[tuple[Any, int]] = (types.FLOAT, 1)

    def __init__(self, share: float) -> None:
        self._share = share

    def numbers(self, draws: Draws, size: int) -> npt.NDArray[np.float32]:
        """(N, 4): top, left, height and width in pixels; the last two are 0 where nothing is erased."""
        area, ratio, down, across = draws[:, 1:].reshape(len(draws), 4, ATTEMPTS).transpose(1, 0, 2)
        target = size**2 * (AREA[0] + (AREA[1] - AREA[0]) * area)
        low, high = np.log(RATIO)
        aspect = np.exp(low + (high - low) * ratio)
        height, width = np.round(np.sqrt(target * aspect)), np.round(np.sqrt(target / aspect))
        fits = (height < size) & (width < size)
        row, first = np.arange(len(draws)), fits.argmax(axis=1)
        height, width = height[row, first], width[row, first]
        top = np.floor(down[row, first] * (size - height + 1))
        left = np.floor(across[row, first] * (size - width + 1))
        erased = (draws[:, 0] < self._share) & fits[row, first]
        return (np.stack([top, left, height, width], axis=1) * erased[:, None]).astype(np.float32)

    def __call__(self, pixels: Any, numbers: Any, size: int) -> Any:
        """Pixels with the rectangle."""
        colour = [round(255 * mean) for mean in MEAN]
        return fn.erase(pixels, anchor=numbers[0:2], shape=numbers[2:4], axis_names="HW", fill_value=colour)
