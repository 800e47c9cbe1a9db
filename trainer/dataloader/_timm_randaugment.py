"""RandAugment as timm has it: other operations, other ranges, and a magnitude that varies.

In timm's words `rand-m7-mstd0.5-inc1`: magnitude 7 of 10, with a standard deviation of 0.5, increasing. Each of the
operations (two) is done to half of the images.
"""

# DALI makes its operators at run time and types few of them.
# mypy: disable-error-code="attr-defined,no-untyped-call,no-any-return"

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from nvidia.dali import types
from nvidia.dali.auto_aug import augmentations as dali
from nvidia.dali.data_node import DataNode
from nvidia.dali.pipeline import do_not_convert

from trainer.config import Preprocess
from trainer.dataloader._augmentation import Draws, Spec, apply_operations

HIGHEST = 10.0  # magnitude
BINS = (
    101  # magnitudes are multiples of a tenth: DALI makes a table for each, in two seconds for all operations
)
GREY = 128  # of pixels from outside of the image, as in timm where nobody names a mean colour; DALI takes one number
DONE = 0.5  # share of the images that an operation is done to


class TimmRandAugment:
    """Operations drawn from timm's 15, with replacement, and applied one after the other.

    Source: timm.data.auto_augment, `rand_augment_transform`, which tests compare each operation with. Where timm
    interpolates it draws between bilinear and bicubic; here it is bilinear. Equalizing is DALI's. What comes in from
    outside of the image is grey here; with timm's `create_transform` it has the mean colour, (124, 116, 104).
    """

    spec: ClassVar[Spec] = Spec(types.INT32, 2)

    def __init__(self, preprocess: Preprocess) -> None:
        self.suite = operations(increasing=preprocess.randaugment_increasing)
        self._num_ops, self._std = preprocess.randaugment_ops, preprocess.randaugment_std
        self._magnitude = preprocess.randaugment_magnitude
        self.draws = 5 * self._num_ops  # which, whether, sign, and two that make a normal number

    def make_params(self, draws: Draws, size: int) -> npt.NDArray[np.int32]:
        """(N, num_ops, 3): index of the operation (the last: none), bin of its magnitude, and 1 to negate that."""
        which, whether, sign, *normal = draws.reshape(len(draws), self._num_ops, 5).transpose(2, 0, 1)
        chosen = np.where(whether < DONE, np.floor(which * (len(self.suite) - 1)), len(self.suite) - 1)
        # Box and Muller 1958: two uniform numbers make a normal one
        deviation = np.sqrt(-2 * np.log1p(-normal[0])) * np.cos(2 * np.pi * normal[1])
        magnitude = np.clip(self._magnitude + self._std * deviation, 0, HIGHEST)
        params = [chosen, np.round(magnitude / HIGHEST * (BINS - 1)), sign < 0.5]
        return np.stack(params, axis=2).astype(np.int32)

    def __call__(self, pixels: DataNode, params: DataNode, size: int) -> DataNode:
        """Pixels after all operations."""
        return apply_operations(
            self.suite, pixels, params, size, count=self._num_ops, magnitude_bins=BINS, fill=GREY
        )


def operations(*, increasing: bool) -> list[Any]:
    """DALI's operations with timm's ranges, in timm's order, and one more that does nothing."""
    kept, threshold = (_fewer_bits, _lower_threshold) if increasing else (_bits, _threshold)
    factor, kernel = (_further, _further_sharpened) if increasing else (_factor, _sharpened)
    enhanced = ((0, 0.9), True) if increasing else ((0.1, 1.9), False)
    return [
        dali.auto_contrast,
        dali.equalize,
        dali.invert,
        dali.rotate.augmentation((0, 30), True),
        dali.posterize.augmentation((0, 4), False, kept),
        dali.solarize.augmentation((0, 256), False, threshold),
        dali.solarize_add.augmentation((0, 110), False),
        dali.color.augmentation(*enhanced, factor),
        dali.contrast.augmentation(*enhanced, factor),
        dali.brightness.augmentation(*enhanced, factor),
        dali.sharpness.augmentation(*enhanced, kernel),
        dali.shear_x.augmentation((0, 0.3), True),
        dali.shear_y.augmentation((0, 0.3), True),
        dali.translate_x.augmentation((0, 0.45), True),
        dali.translate_y.augmentation((0, 0.45), True),
        dali.identity,
    ]


# Parameters of operations. DALI would rewrite each of these functions at each call, to find operators in it.


@do_not_convert
def _bits(level: float) -> npt.NDArray[np.uint8]:
    """The mask that keeps so many of a byte's highest bits; none keeps nothing, as Pillow had it (it refuses now)."""
    return np.array((0xFF << (8 - int(level))) & 0xFF, np.uint8)


@do_not_convert
def _fewer_bits(level: float) -> npt.NDArray[np.uint8]:
    return _bits(4 - int(level))


@do_not_convert
def _threshold(level: float) -> int:
    return int(level)


@do_not_convert
def _lower_threshold(level: float) -> int:
    return 256 - int(level)


@do_not_convert
def _factor(level: float) -> float:
    return level


@do_not_convert
def _further(change: float) -> float:
    return max(0.1, 1 + change)


@do_not_convert
def _sharpened(factor: float) -> Any:
    return dali.sharpness_kernel(factor - 1)


@do_not_convert
def _further_sharpened(change: float) -> Any:
    return dali.sharpness_kernel(_further(change) - 1)
