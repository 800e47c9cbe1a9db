"""Answers of a network that does not exist, for any number of images and classes."""

from __future__ import annotations

import numpy as np

from trainer.predictions import Predictions


def predictions_of(
    logits: np.ndarray, labels: np.ndarray, brightness: np.ndarray | None = None
) -> Predictions:
    """What is kept of these logits (N, C)."""
    exps = np.exp(logits - logits.max(axis=1, keepdims=True))
    shares = exps / exps.sum(axis=1, keepdims=True)
    best = np.argsort(-shares, axis=1, kind="stable")[:, :5]
    own = shares[np.arange(len(labels)), labels]
    return Predictions(
        labels=labels.astype(np.int64),
        classes=best.astype(np.int64),
        probabilities=np.take_along_axis(shares, best, axis=1),
        label_probability=own,
        loss=-np.log(own),
        brightness=np.full(len(labels), 0.5) if brightness is None else brightness,
    )


def answers(images: int, classes: int, *, skill: float = 4.0, seed: int = 0) -> Predictions:
    """Those of a network that is mostly right, and takes neighbours for each other."""
    random = np.random.default_rng(seed)
    labels = np.arange(images) % classes
    logits = random.normal(size=(images, classes)).astype(np.float32)
    logits[np.arange(images), labels] += skill
    logits[np.arange(images), labels ^ 1 if classes % 2 == 0 else labels] += skill / 2
    return predictions_of(logits, labels, random.random(images))
