"""Where a network is right and where it is wrong, from its answers to all validation images. NumPy alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.predictions import Predictions

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

BINS = 15  # of the reliability diagram, as Guo et al. have it
FEWEST = 10  # images of a slice that is shown
Z = 1.96  # of a 95 % interval


class Pair(NamedTuple):
    """Two classes that are taken for each other."""

    first: int  # label
    second: int
    first_as_second: int  # images of the first that were taken for the second
    second_as_first: int

    @property
    def images(self) -> int:
        """In both directions together."""
        return self.first_as_second + self.second_as_first


@dataclass(frozen=True)
class PerClass:
    """Counts and shares of each class, (C,); nan where there is nothing to divide by."""

    support: Ints  # validation images of the class
    predicted: Ints  # images that were taken for the class
    precision: Floats  # share of `predicted` that are of the class
    recall: Floats  # share of `support` that was found; the class's top-1
    f1: Floats  # harmonic mean of both
    top5: Floats  # share of `support` with the class among the five most probable


class Bin(NamedTuple):
    """Images that the network was about equally sure of."""

    low: float  # confidence in 0..1
    high: float
    images: int
    confidence: float  # mean probability of the answer
    accuracy: float  # share of right answers


class Slice(NamedTuple):
    """Images that have something in common."""

    of: str  # what was looked at: size, shape, brightness
    name: str
    images: int
    top1: float
    low: float  # 95 % interval (Wilson)
    high: float


def confusion(predictions: Predictions, classes: int) -> Ints:
    """Number of images by label (row) and answer (column), (C, C); for a number of classes that can be looked at."""
    cells = predictions.labels * classes + predictions.classes[:, 0]
    return np.bincount(cells, minlength=classes * classes).reshape(classes, classes)


def confused_pairs(predictions: Predictions, classes: int) -> list[Pair]:
    """Classes that are taken for each other, the most frequent pair first, both directions together."""
    labels, answers = predictions.labels[~predictions.right], predictions.classes[~predictions.right, 0]
    directions, counts = np.unique(labels * classes + answers, return_counts=True)
    images = dict(zip(directions.tolist(), counts.tolist(), strict=True))
    pairs = {(min(divmod(one, classes)), max(divmod(one, classes))) for one in images}
    found = [Pair(a, b, images.get(a * classes + b, 0), images.get(b * classes + a, 0)) for a, b in pairs]
    return sorted(found, key=lambda pair: (-pair.images, pair))


def per_class(predictions: Predictions, classes: int) -> PerClass:
    """Precision, recall, F1 and support of each class."""

    def count(labels: Ints) -> Ints:
        return np.bincount(labels, minlength=classes)

    support, predicted = count(predictions.labels), count(predictions.classes[:, 0])
    right = count(predictions.labels[predictions.right])
    among = (predictions.classes == predictions.labels[:, None]).any(axis=1)
    return PerClass(
        support=support,
        predicted=predicted,
        precision=_share(right, predicted),
        recall=_share(right, support),
        f1=_share(2 * right, support + predicted),
        top5=_share(count(predictions.labels[among]), support),
    )


def _share(part: Ints, whole: Ints) -> Floats:
    share: Floats = np.divide(part, whole, out=np.full(len(whole), np.nan), where=whole > 0)
    return share


def reliability(predictions: Predictions) -> list[Bin]:
    """Accuracy by confidence, in bins of equal width; without those that have no image.

    Source: Guo et al. 2017, arXiv:1706.04599, section 2.
    """
    confidence = predictions.probabilities[:, 0]
    at = np.clip((confidence * BINS).astype(int), 0, BINS - 1)
    found = []
    for number in range(BINS):
        inside = at == number
        if count := int(inside.sum()):
            means = float(confidence[inside].mean()), float(predictions.right[inside].mean())
            found.append(Bin(number / BINS, (number + 1) / BINS, count, *means))
    return found


def calibration_error(bins: list[Bin]) -> float:
    """Expected calibration error (ECE): the mean distance of confidence and accuracy, in 0..1."""
    total = sum(one.images for one in bins)
    return sum(one.images * abs(one.confidence - one.accuracy) for one in bins) / max(1, total)


def slices(predictions: Predictions, sizes: Ints | None) -> list[Slice]:
    """Accuracy by brightness, and by shorter side and shape where the images' sizes (N, 2) are known."""
    found: list[Slice] = []
    if sizes is not None:
        shorter = sizes.min(axis=1)
        edges = _quantiles(shorter)
        names = [f"{low:.0f} to {high:.0f} px" if low < high else f"{low:.0f} px" for low, high in edges]
        masks = [(shorter >= low) & (shorter <= high) for low, high in edges]
        found += _measured("shorter side", names, masks, predictions)
        ratio = sizes[:, 0] / sizes[:, 1]
        limits = [0.0, 0.67, 0.9, 1.1, 1.5, math.inf]
        shapes = [
            "tall (< 0.67)",
            "upright (to 0.9)",
            "square (to 1.1)",
            "wide (to 1.5)",
            "very wide (> 1.5)",
        ]
        masks = [(ratio >= low) & (ratio < high) for low, high in pairwise(limits)]
        found += _measured("width / height", shapes, masks, predictions)
    brightness = predictions.brightness
    cuts = np.quantile(brightness, [0, 0.1, 0.3, 0.7, 0.9, 1]) if len(brightness) else np.zeros(6)
    words = ["darkest tenth", "dark", "medium", "bright", "brightest tenth"]
    names = [f"{word} (to {high:.2f})" for word, high in zip(words, cuts[1:], strict=True)]
    masks = [
        (brightness > low if at else brightness >= low) & (brightness <= high)
        for at, (low, high) in enumerate(pairwise(cuts))
    ]
    return found + _measured("brightness", names, masks, predictions)


def _quantiles(values: Ints, parts: int = 5) -> list[tuple[float, float]]:
    """First and last of `parts` groups of about as many values; fewer where many are alike."""
    ends = np.unique(np.quantile(values, np.arange(1, parts + 1) / parts, method="lower"))
    found, low = [], int(values.min())
    for end in ends:
        inside = values[(values >= low) & (values <= end)]
        if len(inside):
            found.append((float(inside.min()), float(end)))
        low = int(end) + 1
    return found


def _measured(
    of: str, names: list[str], masks: list[npt.NDArray[np.bool_]], predictions: Predictions
) -> list[Slice]:
    counted = [(name, mask, int(mask.sum())) for name, mask in zip(names, masks, strict=True)]
    rows = [(name, mask, count) for name, mask, count in counted if count >= FEWEST]
    if len(rows) < 2:  # nothing to compare
        return []
    return [
        Slice(of, name, count, float(predictions.right[mask].mean()), *_wilson(predictions.right[mask]))
        for name, mask, count in rows
    ]


def _wilson(right: npt.NDArray[np.bool_]) -> tuple[float, float]:
    """95 % interval of a share. Source: Wilson 1927."""
    number, share = len(right), float(right.mean())
    middle = share + Z * Z / (2 * number)
    half = Z * math.sqrt(share * (1 - share) / number + Z * Z / (4 * number * number))
    return (middle - half) / (1 + Z * Z / number), (middle + half) / (1 + Z * Z / number)


def most_confident_wrong(predictions: Predictions, most: int) -> Ints:
    """Images that were answered wrongly, the surest first."""
    wrong = np.flatnonzero(~predictions.right)
    return wrong[np.argsort(-predictions.probabilities[wrong, 0], kind="stable")][:most]


def least_confident_right(predictions: Predictions, most: int) -> Ints:
    """Images that were answered rightly, the least sure first."""
    right = np.flatnonzero(predictions.right)
    return right[np.argsort(predictions.probabilities[right, 0], kind="stable")][:most]


def label_errors(predictions: Predictions, classes: int) -> tuple[Ints, Ints]:
    """Images whose label may be wrong, the most suspicious first, and the class that each may be of.

    A class's threshold is the mean probability that its own images get; an image is suspected if another class reaches
    that class's threshold with a higher probability than the label has, and ranked by how much higher. Of each answer
    the five most probable classes are known, which are those that can reach a threshold of 1/5.

    Source: confident learning, Northcutt et al. 2021, arXiv:1911.00068 (section 3.1, and "normalized margin").
    """
    labels, own = predictions.labels, predictions.label_probability
    counts = np.bincount(labels, minlength=classes)
    sums = np.bincount(labels, weights=own, minlength=classes)
    thresholds = np.divide(sums, counts, out=np.full(classes, np.inf), where=counts > 0)
    other = predictions.classes != labels[:, None]
    reaches = other & (predictions.probabilities >= thresholds[predictions.classes])
    likely = np.where(reaches, predictions.probabilities, -1.0)
    best = likely.argmax(axis=1)
    highest = likely[np.arange(len(labels)), best]
    suspected = np.flatnonzero((highest > 0) & (highest > own))
    order = suspected[np.argsort(own[suspected] - highest[suspected], kind="stable")]
    return order, predictions.classes[order, best[order]]
