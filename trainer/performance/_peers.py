"""Other ways to make training batches, each as its own documentation shows it: what ours is measured against.

All of them crop (area and ratio as the recipe says), resize to the same size with antialiasing, flip, and
normalise to float32; each uses as many workers or threads as there are processors.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from trainer.config import Images, Recipe
from trainer.dataloader import MEAN, STD, Batch, file_reader_batches
from trainer.dataset import Split
from trainer.distributed import World

# Makes endless batches. `turn` counts from 0, so that each has other crops; what a contender needs in a form
# of its own, it makes once in the folder.
Contender = Callable[[Split, Recipe, World, int, Path], Iterator[Any]]

CORES = len(os.sched_getaffinity(0))


def dali_reader(split: Split, recipe: Recipe, world: World, turn: int, folder: Path) -> Iterator[Batch]:
    """DALI's reader and fused crop, with its own order and luck."""
    return file_reader_batches(
        split, recipe.images, world, batch=recipe.global_batch, seed=recipe.seed + turn
    )


def torchvision(split: Split, recipe: Recipe, world: World, turn: int, folder: Path) -> Iterator[Batch]:
    """torch's DataLoader, Pillow, and transforms of the first kind.

    Source: github.com/pytorch/examples, imagenet/main.py.
    """
    return _data_loader(split, _Pillow(recipe.images), recipe, world, turn)


def torchvision_v2(split: Split, recipe: Recipe, world: World, turn: int, folder: Path) -> Iterator[Batch]:
    """torch's DataLoader, `torchvision.io` and transforms v2 on tensors.

    Source: github.com/pytorch/vision, references/classification/presets.py, with backend "tensor".
    """
    return _data_loader(split, _Tensors(recipe.images), recipe, world, turn)


def spdl(split: Split, recipe: Recipe, world: World, turn: int, folder: Path) -> Iterator[Batch]:
    """SPDL's threads around the same torchvision functions.

    Source: facebookresearch.github.io/spdl, "Building and running pipelines".
    """
    from spdl.pipeline import PipelineBuilder

    photos = _Photos(split, _Tensors(recipe.images))
    luck = torch.Generator().manual_seed(recipe.seed + turn)

    def indices() -> Iterator[int]:
        while True:
            yield from torch.randperm(len(photos), generator=luck).tolist()

    pipeline = (
        PipelineBuilder()
        .add_source(indices())
        .pipe(photos.__getitem__, concurrency=CORES)
        .aggregate(recipe.global_batch, drop_last=True)
        .pipe(torch.utils.data.default_collate)
        .add_sink(2)
        .build(num_threads=CORES)
    )
    with pipeline.auto_stop():
        for images, labels in pipeline:
            yield _on(world, images, labels)


def webdataset(split: Split, recipe: Recipe, world: World, turn: int, folder: Path) -> Iterator[Batch]:
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
        wds.WebDataset(names, shardshuffle=len(names), seed=recipe.seed + turn)
        .repeat()
        .shuffle(1000)
        .to_tuple("jpg", "cls")
        .map_tuple(_Bytes(recipe.images), int)
        .batched(recipe.global_batch, partial=False)
    )
    loader = wds.WebLoader(
        decoded, batch_size=None, num_workers=CORES, persistent_workers=True, multiprocessing_context="fork"
    )
    for images, labels in loader:
        yield _on(world, images, torch.as_tensor(labels))


def litdata(split: Split, recipe: Recipe, world: World, turn: int, folder: Path) -> Iterator[Batch]:
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
    photos = _streamed()(chunks, _Bytes(recipe.images), seed=recipe.seed + turn)
    loader = StreamingDataLoader(
        photos, batch_size=recipe.global_batch, num_workers=CORES, drop_last=True, persistent_workers=True
    )
    while True:
        for images, labels in loader:
            yield _on(world, images, labels)


def _streamed() -> Any:
    from litdata import StreamingDataset

    class Streamed(StreamingDataset):  # type: ignore[misc]
        def __init__(self, chunks: Path, load: Callable[[bytes], torch.Tensor], *, seed: int) -> None:
            super().__init__(str(chunks), shuffle=True, drop_last=True, seed=seed)
            self.load = load

        def __getitem__(self, index: Any) -> tuple[torch.Tensor, int]:
            one = super().__getitem__(index)
            return self.load(one["jpeg"]), one["label"]

    return Streamed


def ffcv(split: Split, recipe: Recipe, world: World, turn: int, folder: Path) -> Iterator[Batch]:
    """FFCV on JPEGs as they are, and its own decoder.

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
        DatasetWriter(str(beton), fields, num_workers=CORES).from_indexed_dataset(_Pictures(split))
    size = (recipe.images.train_size,) * 2
    crop = RandomResizedCropRGBImageDecoder(size, recipe.images.crop_area, recipe.images.crop_ratio)
    mean, std = (255 * np.array(numbers, np.float32) for numbers in (MEAN, STD))
    image = [crop, RandomHorizontalFlip(), ToTensor(), ToTorchImage(), NormalizeImage(mean, std, np.float32)]
    loader = Loader(
        str(beton),
        batch_size=recipe.global_batch,
        num_workers=CORES,
        order=OrderOption.QUASI_RANDOM,
        os_cache=True,
        drop_last=True,
        seed=recipe.seed + turn,
        pipelines={"image": image, "label": [IntDecoder(), ToTensor(), Squeeze()]},
    )
    while True:
        for images, labels in loader:
            yield _on(world, images, labels)


ALWAYS: dict[str, Contender] = {
    "dali_reader": dali_reader,
    "torchvision": torchvision,
    "torchvision_v2": torchvision_v2,
}
IF_INSTALLED: dict[str, Contender] = {
    "spdl": spdl,
    "webdataset": webdataset,
    "litdata": litdata,
    "ffcv": ffcv,
}


def peers() -> dict[str, Contender]:
    """Those that can run here, by name."""
    there = {name: peer for name, peer in IF_INSTALLED.items() if importlib.util.find_spec(name)}
    return {**ALWAYS, **there}


class _Photos(Dataset[tuple[torch.Tensor, int]]):
    """A split as torch's data sets are: by index, with a function from path to tensor."""

    def __init__(self, split: Split, load: Callable[[str], torch.Tensor]) -> None:
        self._paths = [os.fspath(split.path(index)) for index in range(len(split))]
        self._labels, self._load = split.labels.tolist(), load

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self._load(self._paths[index]), self._labels[index]


class _Pictures(_Photos):
    """A split as Pillow's images."""

    def __init__(self, split: Split) -> None:
        super().__init__(split, _picture)


def _picture(path: str) -> Any:
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB")


class _Pillow:
    """From a path to a tensor, by Pillow."""

    def __init__(self, images: Images) -> None:
        from torchvision import transforms

        self._change = transforms.Compose(
            [
                transforms.RandomResizedCrop(images.train_size, images.crop_area, images.crop_ratio),
                transforms.RandomHorizontalFlip(0.5 if images.flip else 0.0),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __call__(self, path: str) -> torch.Tensor:
        changed: torch.Tensor = self._change(_picture(path))
        return changed


class _Tensors:
    """From a path to a tensor, by torchvision's decoder and transforms v2."""

    def __init__(self, images: Images) -> None:
        from torchvision.transforms import v2

        self._change = v2.Compose(
            [
                v2.RandomResizedCrop(images.train_size, images.crop_area, images.crop_ratio, antialias=True),
                v2.RandomHorizontalFlip(0.5 if images.flip else 0.0),
                v2.ToDtype(torch.float32, scale=True),
                v2.Normalize(MEAN, STD),
            ]
        )

    def __call__(self, path: str) -> torch.Tensor:
        from torchvision.io import read_file

        return self._of(read_file(path))

    def _of(self, jpeg: torch.Tensor) -> torch.Tensor:
        from torchvision.io import ImageReadMode, decode_image

        changed: torch.Tensor = self._change(decode_image(jpeg, ImageReadMode.RGB))
        return changed


class _Bytes(_Tensors):
    """The same, from the bytes of a file."""

    def __call__(self, jpeg: Any) -> torch.Tensor:
        return self._of(torch.frombuffer(bytearray(jpeg), dtype=torch.uint8))


def _data_loader(
    split: Split, load: Callable[[str], torch.Tensor], recipe: Recipe, world: World, turn: int
) -> Iterator[Batch]:
    loader = DataLoader(
        _Photos(split, load),
        batch_size=recipe.global_batch,
        shuffle=True,
        drop_last=True,
        num_workers=CORES,
        persistent_workers=True,
        pin_memory=world.device.type == "cuda",
        generator=torch.Generator().manual_seed(recipe.seed + turn),
        multiprocessing_context="forkserver",  # DALI's threads are in this process
    )
    for images, labels in itertools.chain.from_iterable(itertools.repeat(loader)):
        yield _on(world, images, labels)


def _on(world: World, images: torch.Tensor, labels: torch.Tensor) -> Batch:
    return Batch(images.to(world.device, non_blocking=True), labels.to(world.device, non_blocking=True))
