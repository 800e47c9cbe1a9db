"""Networks to export: one of one's own, and statistics without which a BatchNorm does nothing."""

from __future__ import annotations

import torch


class TwoPaths(torch.nn.Module):
    """The network of docs/recipes.md; tests/cli/test_own_network.py trains that page's."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.fine = torch.nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.coarse = torch.nn.Conv2d(3, 8, 7, stride=2, padding=3)
        self.norm = torch.nn.BatchNorm2d(16)
        self.classifier = torch.nn.Linear(16, num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """From (N, 3, H, W) to (N, num_classes)."""
        both = torch.cat([self.fine(images), self.coarse(images)], dim=1)
        logits: torch.Tensor = self.classifier(self.norm(both).relu().mean(dim=(2, 3)))
        return logits


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
