"""Networks for tests that ask about something else: ResNet-50 takes the time and the disk of most.

A recipe names them, as `model: tests.nets:Small`.
"""

from __future__ import annotations

from typing import ClassVar

import torch
import torchvision


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
        logits: torch.Tensor = self.layers(images)
        return logits


class Diverging(Small):
    """Answers NaN in its fifth training pass, counted over all instances."""

    calls: ClassVar[int] = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """From (N, 3, H, W) to (N, num_classes)."""
        Diverging.calls += self.training
        return super().forward(images) * (torch.nan if Diverging.calls == 5 else 1.0)


class AllNaN(Small):
    """Never answers a number."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """From (N, 3, H, W) to (N, num_classes)."""
        return super().forward(images) * torch.nan


class Line(torch.nn.Module):
    """The mean colour of an image, weighed; keeps its instances."""

    instances: ClassVar[list[Line]] = []

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.classifier = torch.nn.Linear(3, num_classes)
        Line.instances.append(self)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """From (N, 3, H, W) to (N, num_classes)."""
        logits: torch.Tensor = self.classifier(images.mean(dim=(2, 3)))
        return logits


class BreakingLine(Line):
    """Answers NaN in its 14th pass, counted over all instances."""

    calls: ClassVar[int] = 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """From (N, 3, H, W) to (N, num_classes)."""
        BreakingLine.calls += 1
        return super().forward(images) * (torch.nan if BreakingLine.calls == 14 else 1)


class Learner(torch.nn.Sequential):
    """Large enough to learn the digits in some seconds."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(
            torch.nn.Conv2d(3, 32, 3, stride=2, padding=1),
            torch.nn.BatchNorm2d(32),
            torch.nn.ReLU(),
            torch.nn.Conv2d(32, 64, 3, stride=2, padding=1),
            torch.nn.BatchNorm2d(64),
            torch.nn.ReLU(),
            torch.nn.AdaptiveAvgPool2d(4),
            torch.nn.Flatten(),
            torch.nn.Linear(1024, num_classes),
        )


class Residual(torchvision.models.ResNet):  # type: ignore[misc]
    """Residual blocks of torchvision's, and dropout: what draws by itself in training."""

    def __init__(self, num_classes: int) -> None:
        super().__init__(torchvision.models.resnet.BasicBlock, [1, 1, 1, 1], num_classes=num_classes)
        self.layer3 = self.layer4 = torch.nn.Identity()
        self.fc = torch.nn.Sequential(torch.nn.Dropout(0.2), torch.nn.Linear(128, num_classes))
