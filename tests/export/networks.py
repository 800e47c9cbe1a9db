"""Networks to export have statistics, without which a BatchNorm does nothing."""

from __future__ import annotations

import torch


def warmed(network: torch.nn.Module, images: torch.Tensor) -> torch.nn.Module:
    """The network in eval mode, contiguous, after its BatchNorms have seen `images` and were scaled at random."""
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # torch: None is the plain mean
            torch.nn.init.uniform_(layer.weight, 0.5, 1.5)
            torch.nn.init.normal_(layer.bias, std=0.1)
    with torch.no_grad():
        network.train()(images)
    return network.to(memory_format=torch.contiguous_format).eval()
