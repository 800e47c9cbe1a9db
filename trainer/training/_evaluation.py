"""Accuracy of a network over the validation images, and its answers image by image."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch.nn import functional as F

from trainer import metrics
from trainer.dataloader import ValLoader
from trainer.distributed import World
from trainer.errors import Stopped
from trainer.predictions import MOST, Predictions
from trainer.preprocess import LUMA, MEAN, STD

VAL_BATCH = 64  # images at a time: whole ones are decoded, beside what training holds of a GPU's memory


@dataclass(frozen=True)
class ClassAccuracy:
    """Number of correct predictions for the images of one class."""

    num_images: int
    top1_images: int  # images whose class has the largest logit …
    top5_images: int  # … or is among the five largest

    @property
    def top1(self) -> float:
        """Share of the class's images in 0..1; nan if it has none."""
        return self.top1_images / self.num_images if self.num_images else math.nan

    @property
    def top5(self) -> float:
        """Share of the class's images in 0..1 that have it among the five largest logits; nan if it has none."""
        return self.top5_images / self.num_images if self.num_images else math.nan


@dataclass(frozen=True)
class Accuracy:
    """Accuracy and loss over all validation images."""

    top1: float  # share of images in 0..1
    top5: float  # share of images in 0..1; of all classes where there are fewer than 5
    loss: float  # mean cross-entropy, nats
    num_images: int  # all processes together
    per_class: tuple[ClassAccuracy, ...] = ()  # by label; empty unless classes were counted
    predictions: Predictions | None = field(default=None, compare=False)  # None unless they were kept

    def values(self) -> dict[str, float]:
        """As metrics of the journal."""
        return {
            metrics.VAL_TOP1: self.top1,
            metrics.VAL_TOP5: self.top5,
            metrics.VAL_LOSS: self.loss,
        }


@contextmanager
def full_precision() -> Iterator[None]:
    """Convolutions and products in true fp32: by default, GPUs since Ampere round to 10 bits (TF32)."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before


Network = Callable[[torch.Tensor], torch.Tensor]


class Prediction(NamedTuple):
    """Logits of a network for a batch of images."""

    indices: torch.Tensor  # (N,) int64 positions in the split, on the host
    logits: torch.Tensor  # (N, classes) float32, on the device
    labels: torch.Tensor  # (N,) int64, on the device
    images: torch.Tensor  # (N, 3, H, W), normalised, on the device


def predict(
    network: Network, batches: ValLoader, world: World, *, stop: Callable[[], bool] = lambda: False
) -> Iterator[Prediction]:
    """Logits of `network` for each image of this process's share, batch by batch.

    Processes may have a batch more or less than others, so there must be no collective between two of them. `stop`
    may be one: it is called equally often on all.

    Args:
        network: from (N, 3, H, W) images to (N, classes) logits; a module must be in eval mode.
        batches: this process's share of the images, each once.
        world: the processes that share the images.
        stop: called before each batch, equally often on all processes; True ends the pass.

    Raises: Stopped if asked to stop; DataError.
    Source: evaluators that yield are big_vision's (github.com/google-research/big_vision).
    """
    share = iter(batches)
    for _ in range(batches.rounds):  # of the process that has most
        if stop():
            raise Stopped("stopped on request during an evaluation; start the same command again to go on")
        batch = next(share, None)
        if batch is None:
            continue
        assert batch.indices is not None, "validation batches have indices"
        with torch.inference_mode():
            logits = network(batch.images).float()
        yield Prediction(batch.indices, logits, batch.labels, batch.images)
    next(share, None)  # lets the loader end its pass


def evaluate(
    network: Network,
    batches: ValLoader,
    world: World,
    *,
    stop: Callable[[], bool] = lambda: False,
    classes: int = 0,
    keep: int = 0,
) -> Accuracy:
    """Accuracy of `network` over `batches`, summed over all processes; see `predict`.

    Args:
        network: from (N, 3, H, W) images to (N, classes) logits; a module must be in eval mode.
        batches: this process's share of the images, each once.
        world: the processes that share the images.
        stop: called before each batch, equally often on all processes; True ends the pass.
        classes: number of classes for `per_class`; 0: no accuracy of single classes.
        keep: number of classes for `predictions`, which all processes get; 0: none are kept.

    Raises: Stopped if asked to stop; DataError.
    """
    kept = _Kept(batches.num_images, min(MOST, keep), world) if keep else None
    sums = torch.zeros(4, dtype=torch.float64, device=world.device)  # top1, top5, loss, images
    per_class = torch.zeros(3, classes, dtype=torch.int64, device=world.device)  # top1, top5, images
    for batch in predict(network, batches, world, stop=stop):
        _, logits, labels, _ = batch
        if kept:
            kept.add(batch)
        best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        loss = F.cross_entropy(logits, labels, reduction="sum")
        count = torch.full_like(loss, len(labels))
        sums += torch.stack([best[:, 0].sum(), best.sum(), loss, count]).double()
        if classes:
            right = torch.stack([best[:, 0], best.any(dim=1), torch.ones_like(best[:, 0])])
            per_class.index_add_(1, labels, right.long())
    top1, top5, loss_sum, num_images = world.all_reduce_sum(sums).tolist()
    counts = world.all_reduce_sum(per_class).T.tolist() if classes else []
    return Accuracy(
        top1=top1 / num_images,
        top5=top5 / num_images,
        loss=loss_sum / num_images,
        num_images=int(num_images),
        per_class=tuple(ClassAccuracy(number, one, five) for one, five, number in counts),
        predictions=kept.gather() if kept else None,
    )


class _Kept:
    """What is kept of each image's answer, on the device until the end: nothing waits for it."""

    def __init__(self, num_images: int, most: int, world: World) -> None:
        self._num_images, self._most, self._world = num_images, most, world
        self._indices: list[torch.Tensor] = []
        self._rows: list[torch.Tensor] = []

    def add(self, batch: Prediction) -> None:
        """Keep one batch: label, its probability, loss, brightness, classes and their probabilities."""
        _, logits, labels, images = batch
        log_probabilities = logits.double().log_softmax(dim=1)
        best = log_probabilities.topk(self._most)
        of_label = log_probabilities.gather(1, labels[:, None])
        self._indices.append(batch.indices)
        columns = (
            labels[:, None],
            of_label.exp(),
            -of_label,
            brightness(images)[:, None],
            best.indices,
            best.values.exp(),
        )
        self._rows.append(torch.cat([column.double() for column in columns], dim=1))

    def gather(self) -> Predictions:
        """All processes' together: each image is in the share of one, so a sum puts them in place."""
        k = self._most
        table = torch.zeros(self._num_images, 4 + 2 * k, dtype=torch.float64, device=self._world.device)
        if self._rows:
            table[torch.cat(self._indices).to(table.device)] = torch.cat(self._rows)
        rows = self._world.all_reduce_sum(table).cpu().numpy()
        return Predictions(
            labels=rows[:, 0].astype("int64"),
            label_probability=rows[:, 1],
            loss=rows[:, 2],
            brightness=rows[:, 3],
            classes=rows[:, 4 : 4 + k].astype("int64"),
            probabilities=rows[:, 4 + k :],
        )


def brightness(images: torch.Tensor) -> torch.Tensor:
    """Mean luma in 0..1 of normalised images (N, 3, H, W), as (N,). Source: ITU-R BT.601."""
    means = images.mean(dim=(2, 3), dtype=torch.float32)
    weights = torch.tensor([luma * std for luma, std in zip(LUMA, STD, strict=True)], device=images.device)
    return means @ weights + sum(luma * mean for luma, mean in zip(LUMA, MEAN, strict=True))


def flip_tta(network: Network) -> Network:
    """`network` with test-time augmentation: the mean logits of each image and of its mirror image.

    Source: FFCV's ResNet-50 results are measured so (rn_configs, `lr_tta`).
    """
    return lambda images: (network(images) + network(images.flip(3))) / 2
