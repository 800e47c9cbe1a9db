"""The images of a model's data set, as its bundle needs them: prepared by Pillow and numpy, as on a Jetson."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.dataloader import read_image
from trainer.dataset import Dataset, Split
from trainer.export._preprocess import Input, to_both_inputs, to_input
from trainer.export._quantize import BATCH, balanced

AT_A_TIME = 64  # validation images
AHEAD = 2  # batches that are decoded while one is looked at


class Measured(NamedTuple):
    """A batch of validation images, prepared in both ways."""

    labels: npt.NDArray[np.int64]  # (N,)
    cropped: npt.NDArray[np.float32]  # (N, 3, H, W), as in validation
    whole_frame: npt.NDArray[np.float32]  # (N, 3, H, W), as by jetson-inference


@dataclass(frozen=True)
class BundleImages:
    """The data set that a model was trained on. Images that Pillow cannot read are left out."""

    dataset: Dataset
    preprocess: dict[str, Any]

    def for_calibration(self, count: int) -> Iterator[npt.NDArray[np.float32]]:
        """Batches (N, 3, H, W) of training images, as many of each class. Raises: DataError."""
        chosen = balanced(self.dataset.train.labels, count)
        for _, inputs in self._batches(self.dataset.train, chosen, BATCH, to_input):
            yield np.stack(inputs)

    def for_validation(self, count: int | None = None) -> Iterator[Measured]:
        """All validation images, or `count` of them, spread evenly. Raises: DataError."""
        val = self.dataset.val
        chosen = np.arange(len(val))
        if count is not None and count < len(val):
            chosen = np.linspace(0, len(val) - 1, count).astype(np.int64)
        for indices, both in self._batches(val, chosen, AT_A_TIME, to_both_inputs):
            cropped, whole = (np.stack(inputs) for inputs in zip(*both, strict=True))
            yield Measured(val.labels[indices], cropped, whole)

    def _batches(
        self, split: Split, indices: npt.NDArray[np.int64], batch: int, prepare: Callable[..., Any]
    ) -> Iterator[tuple[list[int], list[Any]]]:
        """What `prepare` makes of the images, decoded in threads while others are looked at."""

        def one(index: int) -> tuple[Input, Input] | Input | None:
            jpeg = read_image(split, index)
            try:
                return prepare(jpeg, self.preprocess)  # type: ignore[no-any-return]
            except (OSError, SyntaxError, ValueError):  # DALI decodes it; a Jetson with Pillow would not
                return None

        waiting: deque[tuple[Sequence[int], list[Future[Any]]]] = deque()
        with ThreadPoolExecutor(len(os.sched_getaffinity(0)), thread_name_prefix="bundle-images") as threads:
            for start in range(0, len(indices) + AHEAD * batch, batch):
                if some := indices[start : start + batch].tolist():
                    waiting.append((some, [threads.submit(one, index) for index in some]))
                if waiting and start >= AHEAD * batch:
                    first, futures = waiting.popleft()
                    results = [(index, future.result()) for index, future in zip(first, futures, strict=True)]
                    readable = [(index, result) for index, result in results if result is not None]
                    if readable:
                        yield [index for index, _ in readable], [result for _, result in readable]
