"""Other ways to make training batches, as their own documentation shows them: the baselines of our loader.

All of them crop (area and ratio as the recipe says), resize to the same size with antialiasing, flip, and
normalise to float32; each uses as many workers or threads as there are cores. Those that need an installation of their
own are in `benchmarks/peers.py`, outside the package.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from trainer.config import Preprocess, Recipe
from trainer.dataloader import MEAN, STD, Batch
from trainer.dataset import Split
from trainer.distributed import World
from trainer.performance._dali_reader import file_reader_batches

# Makes endless batches from a split. The number of the round, from 0, gives each round other crops. A storage format of
# its own is written once, into the folder.
Baseline = Callable[[Split, Recipe, World, int, Path], Iterator[Any]]

CORES = len(os.sched_getaffinity(0))


def dali_reader(split: Split, recipe: Recipe, world: World, number: int, folder: Path) -> Iterator[Batch]:
    """DALI's reader and fused crop, with its own order and random draws."""
    return file_reader_batches(
        split, recipe.preprocess, world, batch=recipe.global_batch, seed=recipe.seed + number
    )


def torchvision(split: Split, recipe: Recipe, world: World, number: int, folder: Path) -> Iterator[Batch]:
    """torch's DataLoader with Pillow and torchvision's transforms v1.

    Source: github.com/pytorch/examples, imagenet/main.py.
    """
    return data_loader_batches(split, _PillowTransform(recipe.preprocess), recipe, world, number)


BASELINES: dict[str, Baseline] = {"dali_reader": dali_reader, "torchvision": torchvision}


class SplitDataset(Dataset[tuple[Any, int]]):
    """A split as a data set of torch: by index, with a function from path to image."""

    def __init__(self, split: Split, load: Callable[[str], Any]) -> None:
        self._paths = [os.fspath(split.path(index)) for index in range(len(split))]
        self._labels, self._load = split.labels.tolist(), load

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        return self._load(self._paths[index]), self._labels[index]


def open_photo(path: str) -> Any:
    """A decoded Pillow image, RGB."""
    from PIL import Image

    with Image.open(path) as image:
        return image.convert("RGB")


class _PillowTransform:
    """From a path to a tensor (3, H, W), by Pillow."""

    def __init__(self, preprocess: Preprocess) -> None:
        from torchvision import transforms

        size, area, ratio = preprocess.train_size, preprocess.crop_area, preprocess.crop_ratio
        self._transform = transforms.Compose(
            [
                transforms.RandomResizedCrop(size, area, ratio),
                transforms.RandomHorizontalFlip(0.5 if preprocess.flip else 0.0),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
            ]
        )

    def __call__(self, path: str) -> torch.Tensor:
        image: torch.Tensor = self._transform(open_photo(path))
        return image


def data_loader_batches(
    split: Split, load: Callable[[str], torch.Tensor], recipe: Recipe, world: World, number: int
) -> Iterator[Batch]:
    """Endless batches of torch's DataLoader, with a worker process on each core."""
    loader = DataLoader(
        SplitDataset(split, load),
        batch_size=recipe.global_batch,
        shuffle=True,
        drop_last=True,
        num_workers=CORES,
        persistent_workers=True,
        pin_memory=world.device.type == "cuda",
        generator=torch.Generator().manual_seed(recipe.seed + number),
        multiprocessing_context="forkserver",  # DALI's threads are in this process
    )
    for images, labels in itertools.chain.from_iterable(itertools.repeat(loader)):
        yield to_device(world, images, labels)


def to_device(world: World, images: torch.Tensor, labels: torch.Tensor) -> Batch:
    """A batch on the device of this process."""
    return Batch(images.to(world.device, non_blocking=True), labels.to(world.device, non_blocking=True))
