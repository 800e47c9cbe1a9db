"""torchvision's ResNet-50: v1.5, with the stride in the 3 x 3 convolution of a bottleneck."""

from __future__ import annotations

import torch
import torchvision

from trainer.errors import ConfigError

ARCHITECTURES = {"resnet50": torchvision.models.resnet50}


def build(architecture: str, classes: int, *, zero_init_residual: bool = False) -> torch.nn.Module:
    """A freshly initialised network in channels-last layout, on the CPU.

    Args:
        architecture: a name from `ARCHITECTURES`.
        classes: number of outputs.
        zero_init_residual: start every residual block as identity (arXiv:1706.02677, section 5.1).

    Returns: a module from (N, 3, H, W) images to (N, classes) logits.
    Raises: ConfigError if there is no such architecture.
    Source: He et al. 2015, arXiv:1512.03385; initialisation as torchvision's (He et al. 2015, arXiv:1502.01852).
    """
    if architecture not in ARCHITECTURES:
        raise ConfigError(f"there is no architecture {architecture!r}; use one of {', '.join(ARCHITECTURES)}")
    model: torch.nn.Module = ARCHITECTURES[architecture](
        weights=None, num_classes=classes, zero_init_residual=zero_init_residual
    )
    return model.to(memory_format=torch.channels_last)
