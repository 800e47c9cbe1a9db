"""DALI's pipelines of training and of validation, from encoded bytes to normalised images.

    training:    read -> decode a random crop -> resize -> augment -> flip, normalise -> images, labels
    validation:  read -> decode the image     -> resize -> cut out the centre, normalise -> images, labels

`train_stages` and `val_stages` say what is done before the resize (`decode`) and after it (`finish`), in the
order in which an image goes through them. `build_pipelines` puts the resize between the two stages.

On a GPU that is one pipeline. On the CPU there are two, with torch's resize between them: both resize
bilinearly with antialiasing, but DALI's takes five times as long there, longer than the decoding
(docs/performance.md), and torch's pixels are Pillow's, with which published recipes were trained. (A Python
function within one pipeline, DALI's `dl_tensor_python_function`, made as many images per second; once in some
hundred runs of the tests it crashed the process.)
"""

# DALI makes its enums and operators at run time and does not type its decorator.
# mypy: disable-error-code="attr-defined,untyped-decorator,call-overload,no-untyped-call"

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from nvidia.dali import Pipeline, fn, pipeline_def, types
from nvidia.dali.data_node import DataNode
from torch.nn import functional as F

from trainer import ranks
from trainer.config import Decoder
from trainer.dataloader._augmentation import Augmentation, Spec
from trainer.distributed import World
from trainer.preprocess import MEAN, STD

PREFETCH = 2  # batches that each pipeline finishes before they are asked for
BATCHES_IN_USE = PREFETCH + 3  # batches whose encoded bytes a pipeline may be working on
GENERATED = (
    "__autograph_generated_file"  # how nvidia.dali._autograph.pyct.loader calls modules that it writes
)
MAX_THREADS = 16  # for one GPU: each takes 16 MiB of its memory, and as much pinned, in each of two pipelines

ENCODED = Spec(types.UINT8, 1)  # bytes of a file
ANCHOR = Spec(types.FLOAT, 1)  # left and top of a crop window, in pixels
SIZE = Spec(types.FLOAT, 1)  # two sides, in pixels
LABEL = Spec(types.INT64, 0)
MIRROR = Spec(types.INT32, 0)  # 1: flip the image
POSITION = Spec(types.FLOAT, 0)  # of a crop on one axis, from 0 (left, top) to 1 (right, bottom)
PIXELS = Spec(types.UINT8, 3)  # (H, W, 3)

DataNodes = tuple[DataNode, ...]
Source = Callable[[], tuple[Any, ...]]  # called for each batch; StopIteration ends the pass


class Stages(NamedTuple):
    """What is done with an image before the resize and after it."""

    decode: Callable[
        [], DataNodes
    ]  # gives images (H, W, 3) uint8 of any size, the new size, labels, and `others`
    finish: Callable[
        ..., DataNodes
    ]  # takes resized images, labels, and `others`; gives normalised images, labels
    others: list[Spec]  # inputs of `finish` besides images and labels


def train_stages(
    source: Source,
    augmentations: list[Augmentation],
    *,
    size: int,
    decoder: Decoder,
    dtype: torch.dtype = torch.float32,
) -> Stages:
    """Training: read, decode a random crop, (resize,) augment, flip, normalise.

    Args:
        source: gives files (N of any length, uint8), anchors (N, 2) as x and y, shapes (N, 2) as width and
            height, sizes after the resize (N, 2), labels (N,), mirror (N,), parameters of each augmentation.
        augmentations: applied in this order.
        size: side of the resized crop, in pixels.
        decoder: where JPEGs are decoded.
        dtype: of the images that are made, float16 or float32.
    """
    others = [MIRROR, *(augmentation.spec for augmentation in augmentations)]

    def decode() -> DataNodes:
        encoded, anchor, shape, resized, label, mirror, *params = external(
            source, [ENCODED, ANCHOR, SIZE, SIZE, LABEL, *others], no_copy=True
        )
        # Only the crop is decoded. EXIF rotation is off: ImageNet's labels and Pillow's pixels know none.
        crop = fn.decoders.image_slice(
            encoded,
            anchor,
            shape,
            axis_names="WH",
            normalized_anchor=False,
            normalized_shape=False,
            output_type=types.RGB,
            adjust_orientation=False,
            **decoder_options(decoder),
        )
        return crop, resized, label, mirror, *params

    def finish(pixels: DataNode, label: DataNode, mirror: DataNode, *params: DataNode) -> DataNodes:
        for index, augmentation in enumerate(augmentations):
            pixels = augmentation(pixels, params[index], size)
        return normalise(pixels, dtype, mirror=mirror), label

    return Stages(decode, finish, others)


def val_stages(source: Source, *, size: int, decoder: Decoder) -> Stages:
    """Validation: read, decode, (resize,) cut out the centre, normalise.

    Args:
        source: gives files (N of any length, uint8), sizes after the resize (N, 2) as height and width,
            labels (N,), and the crop's positions from the left (N,) and from the top (N,), in 0..1.
        size: side of the crop, in pixels.
        decoder: where JPEGs are decoded.
    """

    def decode() -> DataNodes:
        encoded, resized, label, left, top = external(
            source, [ENCODED, SIZE, LABEL, POSITION, POSITION], no_copy=True
        )
        image = fn.decoders.image(
            encoded, output_type=types.RGB, adjust_orientation=False, **decoder_options(decoder)
        )
        return image, resized, label, left, top

    def finish(pixels: DataNode, label: DataNode, left: DataNode, top: DataNode) -> DataNodes:
        return normalise(pixels, crop=(size, size), crop_pos_x=left, crop_pos_y=top), label

    return Stages(decode, finish, [POSITION, POSITION])


def build_pipelines(stages: Stages, *, conditionals: bool = False, **options: Any) -> list[Pipeline]:
    """The pipelines of a phase: one on a GPU, two on the CPU. The last one gives the batches.

    Args:
        stages: of the phase.
        conditionals: whether `finish` treats the images of a batch differently, as random operations do.
        options: `pipeline_options`.
    """
    # DALI's augmentations use deprecated names of DALI's operators.
    with _without_litter(), warnings.catch_warnings(record=True):
        if options["device_id"] is not None:
            return [_whole_pipeline(stages, enable_conditionals=conditionals, **options)]
        decoding = decoding_pipeline(stages, **options)
        resized = _TorchResize(decoding, threads=options["num_threads"])
        return [decoding, _finishing_pipeline(resized, stages, enable_conditionals=conditionals, **options)]


@contextmanager
def _without_litter() -> Iterator[None]:
    """Remove the modules that DALI writes to the folder of temporary files for conditionals, once they are imported.

    It does so itself at the end of the process, if that is not killed.
    """
    try:
        yield
    finally:
        for name, module in list(sys.modules.items()):
            if name.startswith(GENERATED) and module.__file__:
                Path(module.__file__).unlink(missing_ok=True)


@pipeline_def(exec_dynamic=True, prefetch_queue_depth=PREFETCH)
def _whole_pipeline(stages: Stages) -> DataNodes:
    images, size, labels, *others = stages.decode()
    pixels = fn.resize(images.gpu(), size=size, interp_type=types.INTERP_TRIANGULAR)  # bytes go to the GPU
    return stages.finish(pixels, labels.gpu(), *others)


@pipeline_def(exec_dynamic=True, prefetch_queue_depth=PREFETCH)
def decoding_pipeline(stages: Stages) -> DataNodes:
    """All before the resize: what the CPU of a GPU machine does with `decoder="cpu"`."""
    return stages.decode()


@pipeline_def(exec_dynamic=True, prefetch_queue_depth=PREFETCH)
def _finishing_pipeline(resized: Source, stages: Stages) -> DataNodes:
    specs = [PIXELS, LABEL, *stages.others]
    return stages.finish(*external(resized, specs, layout=["HWC", *[""] * (len(specs) - 1)]))


class _TorchResize:
    """The source of the second pipeline on the CPU: images of the first one, resized by torch in threads."""

    def __init__(self, decoding: Any, *, threads: int) -> None:
        self._decoding = decoding
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="resize-images")

    def __call__(self) -> tuple[Any, ...]:
        images, sizes, *others = self._decoding.run()  # raises StopIteration after the last batch
        decoded = (images.at(index) for index in range(len(images)))
        resized = self._threads.map(_resize, decoded, sizes.as_array().astype(int).tolist())
        return list(resized), *others


def _resize(image: npt.NDArray[np.uint8], size: list[int]) -> npt.NDArray[np.uint8]:
    pixels = torch.from_numpy(image)[None].permute(0, 3, 1, 2)  # channels-last: torch has fast code for it
    resized = F.interpolate(pixels, size, mode="bilinear", antialias=True)
    array: npt.NDArray[np.uint8] = resized[0].permute(1, 2, 0).numpy()
    return array


def external(source: Source, specs: list[Spec], **options: Any) -> Any:
    """Data nodes of these specs, one for each array of `source`."""
    return fn.external_source(
        source=source,
        num_outputs=len(specs),
        batch=True,
        dtype=[spec.dtype for spec in specs],
        ndim=[spec.ndim for spec in specs],
        **options,
    )


def normalise(pixels: DataNode, dtype: torch.dtype = torch.float32, **crop_or_mirror: Any) -> DataNode:
    """Floats of mean 0 and deviation 1 over ImageNet, HWC, which seen as NCHW by torch *is* channels-last."""
    return fn.crop_mirror_normalize(
        pixels,
        dtype=types.FLOAT16 if dtype == torch.float16 else types.FLOAT,
        output_layout="HWC",
        mean=[255 * mean for mean in MEAN],
        std=[255 * std for std in STD],
        **crop_or_mirror,
    )


def decoder_options(decoder: Decoder) -> dict[str, Any]:
    """Arguments of DALI's decoders."""
    if decoder == "cpu":
        return {"device": "cpu"}
    # Else the GPU repeats colours where the CPU interpolates them.
    mixed = {"device": "mixed", "jpeg_fancy_upsampling": True}
    return {**mixed, "hybrid_huffman_threshold": 1} if decoder == "mixed-huffman" else mixed


def default_decoder(world: World) -> Decoder:
    """Where JPEGs are decoded if nobody says it: on the GPU where there is one."""
    return "mixed" if world.device.type == "cuda" else "cpu"


def pipeline_options(batch: int, world: World) -> dict[str, Any]:
    """Arguments of a pipeline that makes batches of `batch` images on this process's device."""
    on_gpu = world.device.type == "cuda"
    threads = max(1, len(os.sched_getaffinity(0)) // ranks.local_world_size())
    return {
        "batch_size": batch,
        "num_threads": min(threads, MAX_THREADS) if on_gpu else threads,
        "device_id": world.device.index if on_gpu else None,
    }
