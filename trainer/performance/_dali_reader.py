"""DALI's own reader and random crops, as its examples use them: a baseline for our loader.

Nothing trains with it: its order and its crops depend on the state of DALI (docs/decisions/0002).
"""

# DALI makes its enums at run time and does not type its decorator.
# mypy: disable-error-code="attr-defined,untyped-decorator,call-overload,no-untyped-call"

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import nvidia.dali
from nvidia.dali import Pipeline, fn, pipeline_def, types
from nvidia.dali.data_node import DataNode
from nvidia.dali.plugin.pytorch import DALIGenericIterator

from trainer.config import Decoder, Preprocess
from trainer.dataloader import (
    CROP_ATTEMPTS,
    PREFETCH,
    Batch,
    decoder_options,
    default_decoder,
    normalise,
    pipeline_options,
)
from trainer.dataset import Split
from trainer.distributed import World


def file_reader_batches(
    split: Split,
    preprocess: Preprocess,
    world: World,
    *,
    batch: int,
    seed: int,
    decoder: Decoder | None = None,
) -> Iterator[Batch]:
    """Endless training batches like those of `TrainLoader`, by `fn.readers.file` and `image_random_crop`.

    Args:
        split: the images of all processes.
        preprocess: ranges of area and ratio of the crops, and their size.
        world: this process's rank, and the device of its batches.
        batch: images in one batch.
        seed: seed of order, crops and flips.
        decoder: where JPEGs are decoded; None: on the GPU where there is one.
    """
    pipeline = _pipeline(
        split,
        preprocess,
        world,
        decoder or default_decoder(world),
        seed=seed,
        **pipeline_options(batch, world),
    )
    for (out,) in DALIGenericIterator([pipeline], ["images", "labels"], size=-1, auto_reset=False):
        yield Batch(out["images"].permute(0, 3, 1, 2), out["labels"].flatten())


@pipeline_def(exec_dynamic=True, prefetch_queue_depth=PREFETCH)
def _pipeline(split: Split, preprocess: Preprocess, world: World, decoder: Decoder) -> tuple[DataNode, ...]:
    encoded, labels = fn.readers.file(
        files=[os.fsdecode(path) for path in split.files()],
        labels=split.labels.tolist(),
        random_shuffle=True,
        shard_id=world.rank,
        num_shards=world.size,
    )
    crops = fn.decoders.image_random_crop(
        encoded,
        random_area=preprocess.crop_area,
        random_aspect_ratio=preprocess.crop_ratio,
        num_attempts=CROP_ATTEMPTS,
        **decoder_options(decoder),
        output_type=types.RGB,
        adjust_orientation=False,
    )
    mirror = fn.random.coin_flip(probability=0.5 if preprocess.flip else 0.0)
    size = preprocess.train_size
    pixels: Any = crops if Pipeline.current().device_id is None else crops.gpu()
    pixels = fn.resize(pixels, size=[size, size], interp_type=types.INTERP_TRIANGULAR)
    return normalise(pixels, mirror=mirror), labels if Pipeline.current().device_id is None else labels.gpu()


def dali_version() -> str:
    """Version of DALI."""
    return str(nvidia.dali.__version__)
