"""Networks: torchvision's, ResNet-50-D, and the user's own."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Mapping

import torch
import torchvision

from trainer.errors import ConfigError
from trainer.model._blurpool import blur_before_strides
from trainer.model._resnet_d import resnet50d

# Their training forward answers with a tuple, for classifiers on the way that nobody uses any more.
LEFT_OUT = {"googlenet", "inception_v3"}
RESIDUAL = ("resnet", "resnext", "wide_resnet")
BLURPOOL = "_blurpool"  # behind a name of torchvision's

Maker = Callable[..., torch.nn.Module]

OURS: dict[str, Maker] = {"resnet50d": resnet50d}  # that torchvision has not


def architectures() -> list[str]:
    """Names of the classifiers that can be trained here: torchvision's, and `resnet50d`."""
    return sorted({*torchvision.models.list_models(module=torchvision.models), *OURS} - LEFT_OUT)


def build(architecture: str, classes: int, *, zero_init_residual: bool = False) -> torch.nn.Module:
    """A freshly initialised network in channels-last layout, on the CPU.

    Args:
        architecture: a name of torchvision's or `resnet50d`, with `_blurpool` behind it or not, or
            `package.module:Name` of the user's own, which is called with `num_classes=…` and answers a module.
        classes: number of outputs.
        zero_init_residual: start every residual block of a ResNet as identity (arXiv:1706.02677, section 5.1);
            other networks start as they do.

    Returns: a module from (N, 3, H, W) images to (N, classes) logits. ResNet-50 is v1.5, with the stride in the
        3 x 3 convolution of a bottleneck.
    Raises: ConfigError if there is no such architecture, or it cannot be imported or made.
    Source: torchvision; He et al. 2015, arXiv:1512.03385, initialised as in arXiv:1502.01852.
    """
    options = {"zero_init_residual": zero_init_residual} if architecture.startswith(RESIDUAL) else {}
    maker = find(architecture)
    made = (
        _make_own(architecture, maker, classes)
        if ":" in architecture
        else maker(num_classes=classes, **options)
    )
    if not isinstance(made, torch.nn.Module):
        raise ConfigError(f"model {architecture}: it answers {type(made).__name__}, not a torch.nn.Module")
    if architecture.endswith(BLURPOOL) and ":" not in architecture:
        blur_before_strides(made)
    module: torch.nn.Module = made.to(memory_format=torch.channels_last)
    return module


def _make_own(architecture: str, maker: Maker, classes: int) -> object:
    try:
        return maker(num_classes=classes)
    except Exception as error:  # whatever a network of one's own raises
        said = " ".join(str(error).split())[:200]
        raise ConfigError(
            f"model {architecture} cannot be made ({type(error).__name__}: {said}); it is called with "
            f"num_classes={classes} and must answer a torch.nn.Module"
        ) from None


def rebuild(architecture: str, classes: int, weights: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """The network of `architecture` with these weights, in eval mode, on the CPU.

    The only way in which stored weights become a network: they are numbers, and the code is that of `build`.

    Raises: ConfigError if there is no such architecture, or the weights are another network's.
    """
    module = build(architecture, classes)
    try:
        module.load_state_dict(dict(weights))
    except (RuntimeError, TypeError, ValueError, AttributeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ConfigError(
            f"the weights are not those of {architecture} for {classes} classes: {' '.join(lines[:2])[:200]}"
        ) from None
    return module.eval()


def classifier_tensors(architecture: str, classes: int) -> frozenset[str]:
    """Names, in the state_dict, of what has another shape for another number of classes.

    Raises: ConfigError as `build`.
    """

    def shapes(classes: int) -> dict[str, torch.Size]:
        try:
            with torch.device("meta"):
                network = build(architecture, classes)
        except Exception:  # as of a network of one's own that wants real numbers
            network = build(architecture, classes)
        return {name: tensor.shape for name, tensor in network.state_dict().items()}

    ours, others = shapes(classes), shapes(classes + 1)
    return frozenset(name for name, shape in ours.items() if others.get(name) != shape)


def find(architecture: str) -> Maker:
    """What makes this architecture; see `build`.

    Raises: ConfigError if there is no such architecture, or it cannot be imported.
    """
    name = architecture.removesuffix(BLURPOOL)
    if name in OURS:
        return OURS[name]
    if name in architectures():
        maker: Maker = torchvision.models.get_model_builder(name)
        return maker
    if ":" not in architecture:
        raise ConfigError(
            f"there is no architecture {architecture!r}; use one of torchvision's, such as resnet18, resnet50 or "
            "convnext_tiny, or your own as package.module:Name"
        )
    module, _, name = architecture.partition(":")
    if os.getcwd() not in sys.path:
        # At the end: a random.py or an onnx.py that lies beside the network replaces nothing.
        sys.path.append(os.getcwd())
    try:
        own: Maker = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"model {architecture} cannot be imported ({error}); it must be found from this folder or by PYTHONPATH"
        ) from None
    return own
