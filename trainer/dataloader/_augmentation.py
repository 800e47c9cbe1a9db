"""What an augmentation is to a loader; see `_augment`."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from nvidia.dali.auto_aug.core import select, signed_bin
from nvidia.dali.data_node import DataNode

Draws = npt.NDArray[np.float64]


class Spec(NamedTuple):
    """What DALI must know of an input: the type, and the dimensions of one image's value."""

    dtype: Any  # member of nvidia.dali.types.DALIDataType
    ndim: int


class Augmentation(Protocol):
    """A random change of pixels."""

    @property
    def draws(self) -> int:
        """Number of uniform draws for one image."""

    @property
    def spec(self) -> Spec:
        """Type and dimensions of the parameters of one image."""

    def make_params(self, draws: Draws, size: int) -> npt.NDArray[Any]:
        """Parameters (N, …) from uniform draws (N, draws) in [0, 1), for images of `size` x `size` pixels."""

    def __call__(self, pixels: DataNode, params: DataNode, size: int) -> DataNode:
        """The changed pixels, (H, W, 3) uint8, within a pipeline definition."""


def apply_operations(
    suite: list[Any],
    pixels: DataNode,
    params: DataNode,
    size: int,
    *,
    count: int,
    magnitude_bins: int,
    fill: int,
) -> DataNode:
    """The pixels after `count` of DALI's operations, one after the other, within a pipeline definition.

    Args:
        suite: DALI's operations, from which each image has its own.
        pixels: (size, size, 3) uint8.
        params: (count, 3): index in `suite`, bin of the magnitude, and 1 to negate that.
        size: side of the image, pixels.
        count: number of operations.
        magnitude_bins: number of magnitudes that an operation has.
        fill: value of pixels that come in from outside of the image.
    """
    for index in range(count):
        pixels = select(
            suite,
            params[index, 0],
            data=pixels,
            magnitude_bin=signed_bin(params[index, 1], random_sign=params[index, 2]),
            num_magnitude_bins=magnitude_bins,
            fill_value=fill,
            shape=(size, size),
        )
    return pixels
