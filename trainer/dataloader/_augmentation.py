"""What an augmentation is to a loader; see `_augment`."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
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
