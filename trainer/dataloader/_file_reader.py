"""DALI's own reader and random crops, as its examples use them: what the data path is measured against.

Nothing trains with it. Its order and its crops depend on the state of DALI (docs/decisions/0002).
"""

# DALI makes its enums at run time and does not type its decorator.
# mypy: disable-error-code="attr-defined,untyped-decorator,call-overload,no-untyped-call"

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import nvidia.dali
from nvidia.dali import Pipeline, fn, pipeline_def, types
from nvidia.dali.plugin.pytorch import DALIGenericIterator

from trainer.config import Decoder, Preprocess
from trainer.dataloader._crops import ATTEMPTS
from trainer.dataloader._loaders import Batch, _decoder, _default_decoder, _graph_options, normalised
from trainer.dataloader._pipelines import PREFETCH
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
    """Endless training batches like those of `TrainLoader`, made by `fn.readers.file` and `image_random_crop`.

    Args:
        split: what to read.
        preprocess: ranges of area and ratio, and the size, of the crops.
        world: the share to read, and the device.
        batch: images in one batch.
        seed: of order, crops and flips.
        decoder: where JPEGs are decoded (default: on the device).
    """
    graph = _graph(
        split,
        preprocess,
        world,
        decoder or _default_decoder(world),
        seed=seed,
        **_graph_options(batch, world),
    )
    for (made,) in DALIGenericIterator([graph], ["images", "labels"], size=-1, auto_reset=False):
        yield Batch(made["images"].permute(0, 3, 1, 2), made["labels"].flatten())


@pipeline_def(exec_dynamic=True, prefetch_queue_depth=PREFETCH)
def _graph(split: Split, preprocess: Preprocess, world: World, decoder: Decoder) -> tuple[Any, Any]:
    root = os.fspath(split.root)
    encoded, labels = fn.readers.file(
        files=[f"{root}/{os.fsdecode(path)}" for path in split.rows["path"].tolist()],
        labels=split.labels.tolist(),
        random_shuffle=True,
        shard_id=world.rank,
        num_shards=world.size,
    )
    crops = fn.decoders.image_random_crop(
        encoded,
        random_area=preprocess.crop_area,
        random_aspect_ratio=preprocess.crop_ratio,
        num_attempts=ATTEMPTS,
        **_decoder(decoder),
        output_type=types.RGB,
        adjust_orientation=False,
    )
    mirror = fn.random.coin_flip(probability=0.5 if preprocess.flip else 0.0)
    size = preprocess.train_size
    pixels: Any = crops if Pipeline.current().device_id is None else crops.gpu()
    pixels = fn.resize(pixels, size=[size, size], interp_type=types.INTERP_TRIANGULAR)
    return normalised(pixels, mirror=mirror), labels if Pipeline.current().device_id is None else labels.gpu()


def dali_version() -> str:
    """The DALI that makes the batches, as it calls itself."""
    return str(nvidia.dali.__version__)
