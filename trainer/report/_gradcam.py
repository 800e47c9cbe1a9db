"""Grad-CAM: which part of an image an answer rests on, of any network with a feature map.

Source: Selvaraju et al. 2017, arXiv:1610.02391. The features are cut off from what made them, so only what lies behind
them is differentiated. With average pooling and one linear layer there the gradient is that layer's weights, and the
map is relu(sum over k of W[class, k] A[k]) (CAM, Zhou et al. 2016, arXiv:1512.04150).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

BATCH = 16  # images at a time


class Call(NamedTuple):
    """A call of a module in a forward pass: a ResNet calls one ReLU several times."""

    module: torch.nn.Module
    number: int  # 0-based


def gradcam(
    network: torch.nn.Module, images: npt.NDArray[np.float32], classes: npt.NDArray[np.int64]
) -> npt.NDArray[np.float32] | None:
    """How much each place of an image speaks for a class.

    Args:
        network: in eval mode, on the CPU; its weights want no gradient any more afterwards.
        images: (N, 3, H, W), normalised.
        classes: (N,), the class that is explained, of each image.

    Returns: (N, h, w) in 0..1, of the size of the last feature map; None of a network that has none.
    """
    network.requires_grad_(False)
    call = _last_feature_map(network, torch.from_numpy(images[:1]))
    if call is None:
        return None
    maps = []
    for at in range(0, len(images), BATCH):
        features: list[torch.Tensor] = []
        with torch.enable_grad(), _cut_off(call, features):
            logits = network(torch.from_numpy(images[at : at + BATCH]))
            wanted = logits.gather(1, torch.from_numpy(classes[at : at + BATCH])[:, None]).sum()
            (gradient,) = torch.autograd.grad(wanted, features)
        weights = gradient.mean(dim=(2, 3), keepdim=True)
        found = (weights * features[0].detach()).sum(dim=1).relu()
        maps.append(found / found.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12))
    joined: npt.NDArray[np.float32] = torch.cat(maps).float().numpy()
    return joined


@contextmanager
def _cut_off(call: Call, features: list[torch.Tensor]) -> Iterator[None]:
    """Let what that call answers begin a new graph; it is added to `features`."""
    calls = 0

    def hook(_module: Any, _inputs: Any, output: torch.Tensor) -> torch.Tensor | None:
        nonlocal calls
        calls += 1
        if calls != call.number + 1:
            return None
        features.append(output.detach().requires_grad_())
        return features[-1].clone()  # a ReLU in place behind it must not change what is looked at

    handle = call.module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _last_feature_map(network: torch.nn.Module, image: torch.Tensor) -> Call | None:
    """The last call that answers with (1, channels, h, w) of more than one place and that all the answer depends on.

    In a residual block the branches are no such calls, its end is one.
    """
    calls: dict[torch.nn.Module, int] = {}
    found: list[Call] = []

    def note(module: torch.nn.Module, _inputs: Any, output: Any) -> None:
        number = calls[module] = calls.get(module, -1) + 1
        if isinstance(output, torch.Tensor) and output.ndim == 4 and output.shape[2] * output.shape[3] > 1:
            found.append(Call(module, number))

    handles = [module.register_forward_hook(note) for module in network.modules() if module is not network]
    try:
        with torch.inference_mode():
            network(image)
    finally:
        for handle in handles:
            handle.remove()
    return next((call for call in reversed(found) if _all_depends_on(call, network, image)), None)


def _all_depends_on(call: Call, network: torch.nn.Module, image: torch.Tensor) -> bool:
    """Whether nothing of the image reaches the answer but through this call."""
    image = image.clone().requires_grad_()
    features: list[torch.Tensor] = []
    with torch.enable_grad(), _cut_off(call, features):
        answer = network(image).sum()
        gradients = torch.autograd.grad(answer, [*features, image], allow_unused=True)
    return len(features) == 1 and gradients[0] is not None and gradients[1] is None
