"""ResNet-D: three small convolutions instead of a large one at the start, and no pixel skipped on the way."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

STEM = 32  # channels of the first two convolutions


def resnet50d(*, num_classes: int = 1000, zero_init_residual: bool = False, **options: Any) -> nn.Module:
    """ResNet-50-D, by timm's names of weights; arguments as of torchvision's `resnet50`.

    Source: He et al. 2018, arXiv:1812.01187, section 4; timm's `resnet50d`, which tests compare it with.
    """
    network: Any = ResNet(
        Bottleneck, [3, 4, 6, 3], num_classes=num_classes, zero_init_residual=zero_init_residual, **options
    )
    network.conv1 = nn.Sequential(
        _convolution(3, STEM, 3, stride=2),
        nn.BatchNorm2d(STEM),
        nn.ReLU(inplace=True),
        _convolution(STEM, STEM, 3),
        nn.BatchNorm2d(STEM),
        nn.ReLU(inplace=True),
        _convolution(STEM, 64, 3),
    )
    for block in (network.layer1[0], network.layer2[0], network.layer3[0], network.layer4[0]):
        convolution, norm = block.downsample
        halves = convolution.stride[0] > 1
        block.downsample = nn.Sequential(
            nn.AvgPool2d(2, 2, ceil_mode=True, count_include_pad=False) if halves else nn.Identity(),
            _convolution(convolution.in_channels, convolution.out_channels, 1),
            norm,
        )
    return network  # type: ignore[no-any-return]


def _convolution(inputs: int, outputs: int, side: int, *, stride: int = 1) -> nn.Conv2d:
    """One that is initialised as torchvision's ResNet does, arXiv:1502.01852."""
    made = nn.Conv2d(inputs, outputs, side, stride=stride, padding=side // 2, bias=False)
    torch.nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
    return made
