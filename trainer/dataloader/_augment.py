"""Augmentations of a training crop: operators of DALI whose parameters are drawn outside of DALI.

DALI's own RandAugment, TrivialAugment and jitter draw from generators inside the pipeline, whose state would
be lost with the process. Here an augmentation says how many uniform draws it needs for an image (`draws`),
makes parameters of them in NumPy (`make_params`), and applies DALI's operators with these parameters
(`__call__`). The draws come from `_sampler.step_draws`, the parameters enter the pipeline as one more input
(`_pipelines.train_stages`).

To add an augmentation, write a class like `Erasing`, add a line to `make_augmentations`, and add its setting
to `trainer.config.Preprocess`. Draws, inputs and pipeline follow from the class.
"""

# DALI makes its enums and operators at run time and types few of them.
# mypy: disable-error-code="attr-defined,no-untyped-call,no-any-return"

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
from nvidia.dali import fn, types
from nvidia.dali.auto_aug import augmentations as dali
from nvidia.dali.auto_aug.rand_augment import get_rand_augment_suite
from nvidia.dali.auto_aug.trivial_augment import get_trivial_augment_wide_suite
from nvidia.dali.data_node import DataNode

from trainer.config import Preprocess
from trainer.dataloader._augmentation import Augmentation, Draws, Spec, apply_operations
from trainer.dataloader._timm_randaugment import TimmRandAugment
from trainer.preprocess import MEAN

BLACK = 0  # of pixels that come in from outside of the image, as in torchvision's references
MAGNITUDE_BINS = 31  # magnitudes are whole numbers from 0 to 30
ATTEMPTS = 10  # at a rectangle that fits, as in torchvision
AREA, RATIO = (0.02, 0.33), (0.3, 3.3)  # of erased rectangles: share of the image, height / width


def make_augmentations(preprocess: Preprocess) -> list[Augmentation]:
    """The augmentations of a recipe, in the order of torchvision's references."""
    chosen: list[Augmentation] = []
    if any(preprocess.color_jitter):
        chosen.append(ColorJitter(preprocess.color_jitter))
    if preprocess.augment == "randaugment":
        suite = get_rand_augment_suite(use_shape=True)
        ops, magnitude = preprocess.randaugment_ops, preprocess.randaugment_magnitude
        chosen.append(RandomOps(suite, num_ops=ops, magnitude=magnitude))
    if preprocess.augment == "timm_randaugment":
        chosen.append(TimmRandAugment(preprocess))
    if preprocess.augment == "trivialaugment":
        chosen.append(RandomOps(get_trivial_augment_wide_suite(), num_ops=1, magnitude=None))
    if preprocess.erasing:
        chosen.append(Erasing(preprocess.erasing))
    return chosen


class RandomOps:
    """RandAugment or TrivialAugment: operations drawn from a suite and applied one after the other.

    Operations and their ranges are DALI's (nvidia.dali.auto_aug), which are those of the papers.

    Source: Cubuk et al. 2019, arXiv:1909.13719; Müller and Hutter 2021, arXiv:2103.10158.
    """

    def __init__(self, suite: list[Any], *, num_ops: int, magnitude: int | None) -> None:
        """Choose the operations.

        Args:
            suite: DALI's operations to draw from.
            num_ops: number of operations for each image.
            magnitude: 0 to 30; None: drawn for each operation.
        """
        self.suite, self._num_ops, self._magnitude = suite, num_ops, magnitude
        self.draws = 3 * num_ops
        self.spec = Spec(types.INT32, 2)

    def make_params(self, draws: Draws, size: int) -> npt.NDArray[np.int32]:
        """(N, num_ops, 3): index of the operation, its magnitude from 0 to 30, and 1 to negate that."""
        choices = np.array([len(self.suite), MAGNITUDE_BINS, 2])
        params = np.floor(draws.reshape(len(draws), self._num_ops, 3) * choices).astype(np.int32)
        if self._magnitude is not None:
            params[:, :, 1] = self._magnitude
        return params

    def __call__(self, pixels: DataNode, params: DataNode, size: int) -> DataNode:
        """Pixels after all operations."""
        return apply_operations(
            self.suite, pixels, params, size, count=self._num_ops, magnitude_bins=MAGNITUDE_BINS, fill=BLACK
        )


class ColorJitter:
    """Brightness, contrast, saturation and hue, changed in this order (torchvision draws the order).

    Source: torchvision.transforms.ColorJitter; hue is turned in YIQ as DALI does, where torchvision uses HSV.
    """

    draws = 4
    spec: ClassVar[Spec] = Spec(types.FLOAT, 1)

    def __init__(self, strength: tuple[float, float, float, float]) -> None:
        self._strength = np.array(strength)

    def make_params(self, draws: Draws, size: int) -> npt.NDArray[np.float32]:
        """(N, 4): factors (at least 0) of brightness, contrast and saturation, and degrees of hue."""
        params = (2 * draws - 1) * self._strength
        params[:, :3] = np.maximum(0, 1 + params[:, :3])
        params[:, 3] *= 360
        return params.astype(np.float32)

    def __call__(self, pixels: DataNode, params: DataNode, size: int) -> DataNode:
        """Pixels after all four changes."""
        for index, operation in enumerate((dali.brightness.op, dali.contrast.op, dali.color.op)):
            if self._strength[index]:
                pixels = operation(pixels, params[index])
        return fn.hue(pixels, hue=params[3]) if self._strength[3] else pixels


class Erasing:
    """A random rectangle in some images, painted in the mean colour.

    Source: Zhong et al. 2017, arXiv:1708.04896; torchvision.transforms.RandomErasing, whose value 0 after the
    normalisation is the mean.
    """

    draws = 1 + 4 * ATTEMPTS
    spec: ClassVar[Spec] = Spec(types.FLOAT, 1)

    def __init__(self, share: float) -> None:
        self._share = share

    def make_params(self, draws: Draws, size: int) -> npt.NDArray[np.float32]:
        """(N, 4): top, left, height and width in pixels; all are 0 where nothing is erased."""
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

    def __call__(self, pixels: DataNode, params: DataNode, size: int) -> DataNode:
        """Pixels with the rectangle."""
        colour = [round(255 * mean) for mean in MEAN]
        return fn.erase(pixels, anchor=params[0:2], shape=params[2:4], axis_names="HW", fill_value=colour)
