"""Resizing decoded images: DALI's on the GPU, torch's on the CPU.

Both are bilinear with antialiasing. On the CPU, DALI's takes five times as long as torch's, longer than the decoding
(docs/performance.md), and torch's pixels are Pillow's, with which published recipes were trained.
"""

# DALI makes its operators at run time.
# mypy: disable-error-code="attr-defined,no-untyped-call"

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nvidia.dali import Pipeline, fn, types
from torch.nn import functional as F
from torch.utils.dlpack import from_dlpack, to_dlpack


def resized(images: Any, size: Any) -> Any:
    """Images (H, W, 3) uint8 of any size, resized; on the GPU if the graph has one, which gets them as bytes.

    Args:
        images: a node of a DALI graph.
        size: height and width: two numbers, or a node with two for each image.
    """
    graph = Pipeline.current()
    if graph.device_id is not None:
        return fn.resize(images.gpu(), size=size, interp_type=types.INTERP_TRIANGULAR)
    return fn.dl_tensor_python_function(
        images,
        types.Constant(size) if isinstance(size, Sequence) else size,
        function=_OnTheCPU(graph.num_threads),
        batch_processing=True,
        output_layouts="HWC",
    )


class _OnTheCPU:
    """Resizes a batch in threads."""

    def __init__(self, threads: int) -> None:
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="resize-images")

    def __call__(self, images: list[Any], sizes: list[Any]) -> list[Any]:
        return list(self._threads.map(_resize, images, sizes))


def _resize(image: Any, size: Any) -> Any:
    pixels = from_dlpack(image).permute(2, 0, 1)[None]  # channels-last: torch has fast code for it
    height, width = from_dlpack(size).tolist()
    made = F.interpolate(pixels, (int(height), int(width)), mode="bilinear", antialias=True)
    return to_dlpack(made[0].permute(1, 2, 0))
