"""BlurPool: no image is subsampled without having been blurred."""

from __future__ import annotations

import torch
from torch.nn import functional as F

NARROWEST = 16  # input channels from which on a convolution is worth it: not the first, which sees the pixels


class BlurredConv2d(torch.nn.Module):
    """A convolution with strides that sees its input blurred by a binomial filter of 3 x 3."""

    def __init__(self, convolution: torch.nn.Conv2d) -> None:
        super().__init__()
        self.conv = convolution
        row = torch.tensor([1.0, 2.0, 1.0]) / 4
        self.register_buffer("blur", torch.outer(row, row).repeat(convolution.in_channels, 1, 1, 1))

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) to (N, C', H / stride, W / stride)."""
        blurred = F.conv2d(features, self.get_buffer("blur"), padding=1, groups=self.conv.in_channels)
        answer: torch.Tensor = self.conv(blurred)
        return answer


def blur_before_strides(network: torch.nn.Module) -> None:
    """Replace each convolution with strides, but for those with few input channels, by a `BlurredConv2d`.

    Source: Zhang 2019, arXiv:1904.11486, as github.com/libffcv/ffcv-imagenet does it (`apply_blurpool`).
    """
    for name, layer in network.named_children():
        if isinstance(layer, torch.nn.Conv2d) and max(layer.stride) > 1 and layer.in_channels >= NARROWEST:
            setattr(network, name, BlurredConv2d(layer))
        else:
            blur_before_strides(layer)
