"""Loaders that a person installs beside this package, each as its own documentation shows it.

As the baselines of `trainer bench loader`, all of them crop, resize, flip and normalise as the recipe says, with as
many workers or threads as there are cores. `./scripts/install --group bench` brings SPDL, WebDataset and LitData;
FFCV is compiled by hand.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch

from trainer.config import Preprocess, Recipe
from trainer.dataloader import MEAN, STD, Batch
from trainer.dataset import Split
from trainer.distributed import World
from trainer.performance import Baseline
from trainer.performance._baselines import CORES, SplitDataset, data_loader_batches, open_photo, to_device


def torchvision_v2(split: Split, recipe: Recipe, world: World, number: int, folder: Path) -> Iterator[Batch]:
    """torch's DataLoader with `torchvision.io` and transforms v2 on tensors.

    Source: github.com/pytorch/vision, references/classification/presets.py, with backend "tensor".
    """
    return data_loader_batches(split, _TensorTransform(recipe.preprocess), recipe, world, number)


def spdl(split: Split, recipe: Recipe, world: World, number: int, folder: Path) -> Iterator[Batch]:
    """SPDL's threads around the same torchvision functions.

    Source: facebookresearch.github.io/spdl, "Building and running pipelines".
    """
    from spdl.pipeline import PipelineBuilder

    photos = SplitDataset(split, _TensorTransform(recipe.preprocess))
    rng = torch.Generator().manual_seed(recipe.seed + number)

    def indices() -> Iterator[int]:
        while True:
            yield from torch.randperm(len(photos), generator=rng).tolist()

    builder: Any = PipelineBuilder()  # its type follows from a source that it does not have yet
    pipeline = (
        builder.add_source(indices())
        .pipe(photos.__getitem__, concurrency=CORES)
        .aggregate(recipe.global_batch, drop_last=True)
        .pipe(torch.utils.data.default_collate)
        .add_sink(2)
        .build(num_threads=CORES)
    )
    with pipeline.auto_stop():
        for images, labels in pipeline:
            yield to_device(world, images, labels)


def webdataset(split: Split, recipe: Recipe, world: World, number: int, folder: Path) -> Iterator[Batch]:
    """WebDataset's shards and the same torchvision functions.

    Source: github.com/webdataset/webdataset, README and examples.
    """
    import webdataset as wds

    shards = folder / "webdataset"
    if not shards.exists():
        shards.mkdir()
        per_shard = -(-len(split) // (4 * CORES))
        with wds.ShardWriter(str(shards / "%06d.tar"), maxcount=per_shard, verbose=0) as writer:
            for index in range(len(split)):
                jpeg = split.path(index).read_bytes()
                writer.write({"__key__": f"{index:08d}", "jpg": jpeg, "cls": int(split.labels[index])})
    names = sorted(str(path) for path in shards.glob("*.tar"))
    decoded = (
        wds.WebDataset(names, shardshuffle=len(names), seed=recipe.seed + number)
        .repeat()
        .shuffle(1000)
        .to_tuple("jpg", "cls")
        .map_tuple(_BytesTransform(recipe.preprocess), int)
        .batched(recipe.global_batch, partial=False)
    )
    loader = wds.WebLoader(
        decoded, batch_size=None, num_workers=CORES, persistent_workers=True, multiprocessing_context="fork"
    )
    for images, labels in loader:
        yield to_device(world, images, torch.as_tensor(labels))


def litdata(split: Split, recipe: Recipe, world: World, number: int, folder: Path) -> Iterator[Batch]:
    """LitData's chunks and the same torchvision functions.

    Source: github.com/Lightning-AI/litdata, README.
    """
    from litdata import StreamingDataLoader
    from litdata.streaming.writer import BinaryWriter

    chunks = folder / "litdata"
    if not chunks.exists():
        writer = BinaryWriter(str(chunks), chunk_bytes="64MB")
        for index in range(len(split)):
            writer[index] = {"jpeg": split.path(index).read_bytes(), "label": int(split.labels[index])}
        writer.done()
        writer.merge()
    photos = _streamed()(chunks, _BytesTransform(recipe.preprocess), seed=recipe.seed + number)
    loader = StreamingDataLoader(
        photos, batch_size=recipe.global_batch, num_workers=CORES, drop_last=True, persistent_workers=True
    )
    while True:
        for images, labels in loader:
            yield to_device(world, images, labels)


def _streamed() -> Any:
    from litdata import StreamingDataset

    class Streamed(StreamingDataset):  # type: ignore[misc]
        def __init__(self, chunks: Path, load: Callable[[bytes], torch.Tensor], *, seed: int) -> None:
            super().__init__(str(chunks), shuffle=True, drop_last=True, seed=seed)
            self.load = load

        def __getitem__(self, index: Any) -> tuple[torch.Tensor, int]:
            sample = super().__getitem__(index)
            return self.load(sample["jpeg"]), sample["label"]

    return Streamed


def ffcv(split: Split, recipe: Recipe, world: World, number: int, folder: Path) -> Iterator[Batch]:
    """FFCV with JPEGs as they are and its own decoder.

    Source: github.com/libffcv/ffcv-imagenet, train_imagenet.py.
    """
    import numpy as np
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.decoders import IntDecoder, RandomResizedCropRGBImageDecoder
    from ffcv.loader import Loader, OrderOption
    from ffcv.transforms import NormalizeImage, RandomHorizontalFlip, Squeeze, ToTensor, ToTorchImage
    from ffcv.writer import DatasetWriter

    beton = folder / "ffcv.beton"
    if not beton.exists():
        fields = {"image": RGBImageField(write_mode="jpg", jpeg_quality=95), "label": IntField()}
        DatasetWriter(str(beton), fields, num_workers=CORES).from_indexed_dataset(
            SplitDataset(split, open_photo)
        )
    preprocess = recipe.preprocess
    size = (preprocess.train_size,) * 2
    crop = RandomResizedCropRGBImageDecoder(size, preprocess.crop_area, preprocess.crop_ratio)
    mean, std = (255 * np.array(numbers, np.float32) for numbers in (MEAN, STD))
    image = [crop, RandomHorizontalFlip(), ToTensor(), ToTorchImage(), NormalizeImage(mean, std, np.float32)]
    loader = Loader(
        str(beton),
        batch_size=recipe.global_batch,
        num_workers=CORES,
        order=OrderOption.QUASI_RANDOM,
        os_cache=True,
        drop_last=True,
        seed=recipe.seed + number,
        pipelines={"image": image, "label": [IntDecoder(), ToTensor(), Squeeze()]},
    )
    while True:
        for images, labels in loader:
            yield to_device(world, images, labels)


IF_INSTALLED: dict[str, Baseline] = {
    "spdl": spdl,
    "webdataset": webdataset,
    "litdata": litdata,
    "ffcv": ffcv,
}


def peers() -> dict[str, Baseline]:
    """The loaders that can run here, by name."""
    installed = {name: peer for name, peer in IF_INSTALLED.items() if importlib.util.find_spec(name)}
    return {"torchvision_v2": torchvision_v2, **installed}


class _TensorTransform:
    """From a path to a tensor (3, H, W), by torchvision's decoder and transforms v2."""

    def __init__(self, preprocess: Preprocess) -> None:
        from torchvision.transforms import v2

        size, area, ratio = preprocess.train_size, preprocess.crop_area, preprocess.crop_ratio
        self._transform = v2.Compose(
            [
                v2.RandomResizedCrop(size, area, ratio, antialias=True),
                v2.RandomHorizontalFlip(0.5 if preprocess.flip else 0.0),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    def __call__(self, path: str) -> torch.Tensor:
        from torchvision.io import read_file

        return self._decoded(read_file(path))

    def _decoded(self, jpeg: torch.Tensor) -> torch.Tensor:
        from torchvision.io import ImageReadMode, decode_image

        image: torch.Tensor = self._transform(decode_image(jpeg, ImageReadMode.RGB))
        return image


class _BytesTransform(_TensorTransform):
    """The same, from the bytes of a file."""

    def __call__(self, jpeg: Any) -> torch.Tensor:
        return self._decoded(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8))
