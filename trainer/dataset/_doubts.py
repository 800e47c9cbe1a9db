"""What is not wrong with a data set but hardly meant so."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trainer.dataset._manifest import Dataset, Split
from trainer.dataset._names import shown
from trainer.dataset.forms._imagenet_labels import IMAGENET, imagenet_classes


def published_counts(dataset: Dataset) -> tuple[int, int] | None:
    """Number of training and of validation images that its publisher gives; ImageNet is known by its classes."""
    if counts := dataset.metadata.get("published"):
        return counts[0], counts[1]
    return (IMAGENET.train, IMAGENET.val) if set(dataset.classes) == imagenet_classes().keys() else None


def doubts(dataset: Dataset) -> list[str]:
    """Sentences about what somebody should look at before a training."""
    found = []
    counts = (len(dataset.train), len(dataset.val))
    published = published_counts(dataset)
    if published is not None and published != counts:
        found.append(f"published are {published[0]:,} and {published[1]:,} images")
    if len(dataset.classes) == 1:
        found.append("there is one class only: whatever is trained will be right always")
    shared = np.flatnonzero(np.isin(_contents(dataset.val), _contents(dataset.train)))
    if len(shared):
        found.append(
            f"{len(shared):,} of {len(dataset.val):,} validation images are training images too, byte for byte "
            f"(e.g. {shown(dataset.val.name(int(shared[0])))}): the accuracy will be that of images learned by heart"
        )
    return found


def _contents(split: Split) -> npt.NDArray[np.uint64]:
    """A number for the content of each image (N,): its length and its checksum."""
    return split.rows["bytes"].astype(np.uint64) << np.uint64(32) | split.rows["crc32"].astype(np.uint64)
