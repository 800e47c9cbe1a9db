"""A network that is mounted into the trainer's container, and leaves the processors to others between its steps."""

from __future__ import annotations

import time

import torch
import torchvision


class Unhurried(torchvision.models.ResNet):  # type: ignore[misc]
    """ResNet-18 that takes some steps a second for as long as it is watched, and a tenth of ResNet-50's work."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(torchvision.models.resnet.BasicBlock, [2, 2, 2, 2], num_classes=num_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """From (N, 3, H, W) to (N, num_classes)."""
        if self.training:
            time.sleep(0.25)
        logits: torch.Tensor = super().forward(images)
        return logits
