"""A network for tests that ask about something else: ResNet-50 takes the time and the disk of most."""

from __future__ import annotations

import torch


class Small(torch.nn.Module):
    """What a run needs of a network: convolutions, batch statistics, weights that decay and some that do not."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(
            torch.nn.Conv2d(3, 16, 3, stride=2),
            torch.nn.BatchNorm2d(16),
            torch.nn.ReLU(),
            torch.nn.Conv2d(16, 32, 3, stride=2),
            torch.nn.BatchNorm2d(32),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(1),
            torch.nn.Flatten(),
            torch.nn.Linear(32, num_classes),
        )

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """From (N, 3, H, W) to (N, num_classes)."""
        answer: torch.Tensor = self.layers(images)
        return answer
