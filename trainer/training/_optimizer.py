"""The optimizer of a recipe."""

from __future__ import annotations

from typing import Any

import torch

from trainer.config import Optimizer, Recipe
from trainer.training._lamb import SGDW, Lamb


def parameter_groups(model: torch.nn.Module, optimizer: Optimizer) -> list[dict[str, Any]]:
    """Weights with decay; BatchNorm parameters and biases without, unless the recipe says so.

    Source: He et al. 2018, arXiv:1812.01187, section 3.1 ("no bias decay").
    """
    weights = [p for p in model.parameters() if p.ndim > 1 or optimizer.decay_norm_and_bias]
    others = [p for p in model.parameters() if p.ndim <= 1 and not optimizer.decay_norm_and_bias]
    return [
        {"params": weights, "weight_decay": optimizer.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def make_optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """The recipe's optimizer; the learning rate is set at each step.

    torch's are fused: one pass over the weights, and of its forms the only one that takes GradScaler's verdict on the
    device, as ours do too. Others make the host wait for it at every step.
    """
    settings = recipe.optimizer
    groups = parameter_groups(model, settings)
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=(settings.momentum, 0.999), fused=True)
    if settings.name == "lamb":
        return Lamb(groups, lr=0.0, betas=(settings.momentum, 0.999))
    kind: type[torch.optim.SGD] = torch.optim.SGD
    if settings.name == "sgdw":
        kind = SGDW
        for group in groups:
            group |= {
                "decoupled_decay": group["weight_decay"],
                "weight_decay": 0.0,
                "peak_lr": recipe.peak_lr,
            }
    sgd = kind(groups, lr=0.0, momentum=settings.momentum, nesterov=settings.nesterov, fused=True)
    if settings.momentum or recipe.schedule.momentum_range:
        # Else the fused one begins with whatever memory holds where GradScaler skips the first step, as in fp16 it
        # usually does. Seen in torch 2.14; github.com/LibreYOLO/libreyolo, pull request 771, met it too.
        for group in sgd.param_groups:
            for weights in group["params"]:
                sgd.state[weights]["momentum_buffer"] = torch.zeros_like(weights)
    return sgd
