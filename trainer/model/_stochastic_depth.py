"""Stochastic depth: in training, an image skips some residual blocks."""

from __future__ import annotations

from typing import Any

import torch
from torchvision.models.resnet import BasicBlock, Bottleneck
from torchvision.ops import stochastic_depth

from trainer.errors import ConfigError


def skip_blocks(network: torch.nn.Module, share: float) -> None:
    """Let each image skip residual blocks of a ResNet at random: of the last block `share`, of those before it less.

    The first block is never skipped, and the shares grow evenly from there. What a block adds comes from its last
    BatchNorm, so it is dropped behind that: names of weights stay, and in eval mode nothing is dropped. The draws are
    torch's, one for each image and block.

    Raises: ConfigError if the network has no such blocks.
    Source: Huang et al. 2016, arXiv:1603.09382; torchvision.ops.stochastic_depth; the shares as in timm's ResNet.
    """
    blocks = [layer for layer in network.modules() if isinstance(layer, BasicBlock | Bottleneck)]
    if not blocks:
        raise ConfigError(
            "stochastic_depth is for torchvision's ResNets, and this network has no block of theirs; use --set "
            "stochastic_depth=0"
        )
    for index, block in enumerate(blocks):
        last_norm = block.bn3 if isinstance(block, Bottleneck) else block.bn2
        last_norm.register_forward_hook(_Skip(share * index / max(len(blocks) - 1, 1)))


class _Skip:
    """A forward hook that drops what a layer answers, for some images of a batch."""

    def __init__(self, share: float) -> None:
        self._share = share

    def __call__(self, layer: torch.nn.Module, _: Any, answer: torch.Tensor) -> torch.Tensor:
        dropped: torch.Tensor = stochastic_depth(answer, self._share, "row", layer.training)
        return dropped
