"""Counting how often the network is right."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch.nn import functional as F

from trainer import metrics
from trainer.dataloader import ValLoader
from trainer.distributed import World
from trainer.errors import Stopped

VAL_BATCH = 64  # images during a run: whole ones are decoded, beside what training holds of a GPU's memory


@dataclass(frozen=True)
class ClassAccuracy:
    """What a pass says about the images of one class."""

    images: int
    top1_images: int  # of these the class was the best answer …
    top5_images: int  # … and among the best five

    @property
    def top1(self) -> float:
        """Share of the class's images in 0..1; nan if it has none."""
        return self.top1_images / self.images if self.images else math.nan

    @property
    def top5(self) -> float:
        """As `top1`, among the best five."""
        return self.top5_images / self.images if self.images else math.nan


@dataclass(frozen=True)
class Accuracy:
    """What a pass over the validation images says."""

    top1: float  # share of images in 0..1
    top5: float  # share of images in 0..1; of all classes where there are fewer than 5
    loss: float  # mean cross-entropy, nats
    images: int  # counted, all processes together
    per_class: tuple[ClassAccuracy, ...] = ()  # by label, if it was asked for

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


@torch.inference_mode()
def evaluate(
    network: Callable[[torch.Tensor], torch.Tensor],
    batches: ValLoader,
    world: World,
    *,
    stop: Callable[[], bool] = lambda: False,
    classes: int = 0,
) -> Accuracy:
    """Accuracy of `network` over `batches`, summed over all processes.

    Args:
        network: from (N, 3, H, W) images to (N, classes) logits; a module must be in eval mode.
        batches: this process's share of the images, each once.
        world: the processes that share the images.
        stop: asked at each batch, on all processes alike; True ends it.
        classes: count for each of so many classes as well; 0: only for all together.

    Raises: Stopped if asked to stop.
    """
    sums = torch.zeros(4, dtype=torch.float64, device=world.device)  # top1, top5, loss, images
    # top1, top5, images of each class
    per_class = torch.zeros(3, classes, dtype=torch.int64, device=world.device)
    share = iter(batches)
    for _ in range(batches.rounds):  # some processes have a batch less than others
        if stop():
            raise Stopped("stopped on request during an evaluation; start the same command again to go on")
        batch = next(share, None)
        if batch is None:
            continue
        logits, labels = network(batch.images).float(), batch.labels
        best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        loss = F.cross_entropy(logits, labels, reduction="sum")
        count = torch.full_like(loss, len(labels))
        sums += torch.stack([best[:, 0].sum(), best.sum(), loss, count]).double()
        if classes:
            right = torch.stack([best[:, 0], best.any(dim=1), torch.ones_like(best[:, 0])])
            per_class.index_add_(1, labels, right.long())
    next(share, None)  # the pass has its own end, after the last batch
    top1, top5, loss_sum, images_seen = world.all_reduce_sum(sums).tolist()
    counts = world.all_reduce_sum(per_class).T.tolist() if classes else []
    return Accuracy(
        top1=top1 / images_seen,
        top5=top5 / images_seen,
        loss=loss_sum / images_seen,
        images=int(images_seen),
        per_class=tuple(ClassAccuracy(number, one, five) for one, five, number in counts),
    )


def flip_tta(network: Callable[[torch.Tensor], torch.Tensor]) -> Callable[[torch.Tensor], torch.Tensor]:
    """`network`, asked about each image and its mirror image: the mean of both logits.

    Source: FFCV's ResNet-50 results are measured so (rn_configs, `lr_tta`).
    """
    return lambda images: (network(images) + network(images.flip(3))) / 2
