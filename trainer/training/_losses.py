"""The loss of a recipe, and how a classifier starts with it."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch.nn import functional as F

from trainer.config import Recipe

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def make_loss(recipe: Recipe) -> Loss:
    """The recipe's loss, a mean over images in nats: from logits (N, C) and labels (N,), or shares (N, C).

    Binary cross-entropy is summed over the classes, as MosaicML's recipes have it, or their mean (`bce_sum: false`), as
    timm's have it, which is 1,000 times less for ImageNet. Label smoothing moves a share of each target to all classes
    alike, in both; a threshold then makes each target 1 or 0.

    Source: torch.nn.functional; github.com/mosaicml/composer, composer/loss, `binary_cross_entropy_with_logits`;
    timm.loss.BinaryCrossEntropy.
    """
    smoothing = recipe.label_smoothing
    if recipe.loss == "cross_entropy":
        return lambda logits, targets: F.cross_entropy(logits, targets, label_smoothing=smoothing)

    def binary_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        classes = logits.shape[1]
        shares = F.one_hot(targets, classes) if targets.ndim == 1 else targets
        shares = (1 - smoothing) * shares.to(logits.dtype) + smoothing / classes
        if recipe.bce_target_threshold is not None:
            shares = (shares > recipe.bce_target_threshold).to(logits.dtype)
        loss = F.binary_cross_entropy_with_logits(logits, shares, reduction="sum") / len(logits)
        return loss if recipe.bce_sum else loss / classes

    return binary_cross_entropy


def init_classifier_prior(model: torch.nn.Module) -> None:
    """Start the classifier's bias at the prior of 1 / classes, without which a sum of cross-entropies starts badly.

    Source: github.com/mosaicml/examples, resnet_imagenet/model.py; Lin et al. 2017, arXiv:1708.02002, section 4.1.
    """
    classifiers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    if classifiers and classifiers[-1].bias is not None:
        torch.nn.init.constant_(classifiers[-1].bias, -math.log(classifiers[-1].out_features))
