"""DALI's graphs: decode, resize, and what comes after.

On a GPU it is one graph. On the CPU it is two, with torch's resize between them: both resize bilinearly with
antialiasing, but DALI's takes five times as long there, longer than the decoding (docs/performance.md), and torch's
pixels are Pillow's, with which published recipes were trained. (A Python function within one graph, DALI's
`dl_tensor_python_function`, made as many images a second; once in some hundred runs of the tests the process crashed.)
"""

# DALI makes its enums and operators at run time and does not type its decorator.
# mypy: disable-error-code="attr-defined,untyped-decorator,call-overload,no-untyped-call"

from __future__ import annotations

import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from nvidia.dali import fn, pipeline_def, types
from torch.nn import functional as F

PREFETCH = 2  # batches that each graph finishes before they are asked for

Nodes = tuple[Any, ...]  # of a graph, or what comes out of it
Kind = tuple[Any, int]  # DALI's type of a value for each image, and its dimensions
SIZE: Kind = (types.FLOAT, 1)  # of two sides
LABEL: Kind = (types.INT64, 0)


class Graph:
    """The whole way of a batch through DALI."""

    def __init__(
        self,
        decode: Callable[[], Nodes],
        end: Callable[..., Nodes],
        rest: list[Kind],
        *,
        conditionals: bool = False,
        **options: Any,
    ) -> None:
        """Build it.

        Args:
            decode: makes nodes: images (H, W, 3) uint8 of any size, the size that they get, labels, and `rest`.
            end: makes the output of the resized images, labels, and `rest`.
            rest: kinds of what else belongs to an image.
            conditionals: whether the end does one thing with some images of a batch and another with others.
            options: of DALI's pipelines; without a `device_id` it is the CPU.
        """
        with warnings.catch_warnings(record=True):  # DALI's augmentations use old names of DALI's operators
            if options["device_id"] is not None:
                self._parts = [_whole_graph(decode, end, enable_conditionals=conditionals, **options)]
            else:
                decoded = decoding_graph(decode, **options)
                source = _Resized(decoded, options["num_threads"])
                self._parts = [
                    decoded, _ending_graph(source, end, rest, enable_conditionals=conditionals, **options)
                ]  # fmt: skip

    @property
    def last(self) -> Any:
        """DALI's pipeline that gives the batches."""
        return self._parts[-1]

    def reset(self) -> None:
        """Get ready for another pass, after the source has ended one."""
        for part in self._parts:
            part.reset()


@pipeline_def(exec_dynamic=True, prefetch_queue_depth=PREFETCH)
def decoding_graph(decode: Callable[[], Nodes]) -> Nodes:
    """The first part alone: what a GPU machine's processors do, or the CPU before the resize."""
    return decode()


@pipeline_def(exec_dynamic=True, prefetch_queue_depth=PREFETCH)
def _whole_graph(decode: Callable[[], Nodes], end: Callable[..., Nodes]) -> Nodes:
    images, size, labels, *rest = decode()
    pixels = fn.resize(images.gpu(), size=size, interp_type=types.INTERP_TRIANGULAR)  # bytes go to the GPU
    return end(pixels, labels.gpu(), *rest)


@pipeline_def(exec_dynamic=True, prefetch_queue_depth=PREFETCH)
def _ending_graph(source: _Resized, end: Callable[..., Nodes], rest: list[Kind]) -> Nodes:
    kinds = [(types.UINT8, 3), LABEL, *rest]
    return end(*external(source, kinds, layout=["HWC", *[""] * (len(kinds) - 1)]))


def external(source: Callable[[], tuple[Any, ...]], kinds: list[Kind], **options: Any) -> Any:
    """Nodes of these kinds, from a source that is called for each batch."""
    return fn.external_source(
        source=source,
        num_outputs=len(kinds),
        batch=True,
        dtype=[dtype for dtype, _ in kinds],
        ndim=[dimensions for _, dimensions in kinds],
        **options,
    )


class _Resized:
    """The source of the second graph: what came out of the first, resized in threads."""

    def __init__(self, decoded: Any, threads: int) -> None:
        self._decoded = decoded
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="resize-images")

    def __call__(self) -> tuple[Any, ...]:
        images, sizes, *others = self._decoded.run()  # raises StopIteration after the last batch
        pixels = self._threads.map(
            _resize, (images.at(index) for index in range(len(images))), sizes.as_array().astype(int).tolist()
        )
        return list(pixels), *others


def _resize(image: npt.NDArray[np.uint8], size: list[int]) -> npt.NDArray[np.uint8]:
    pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2)  # channels-last: torch has fast code for it
    made = F.interpolate(pixels, size, mode="bilinear", antialias=True)
    resized: npt.NDArray[np.uint8] = made[0].permute(1, 2, 0).numpy()
    return resized
