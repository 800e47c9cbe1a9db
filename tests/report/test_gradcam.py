from __future__ import annotations

import numpy as np
import pytest
import torch
import torchvision

from tests.nets import Line, Small
from trainer.model import build
from trainer.report._gradcam import _last_feature_map, gradcam


def inputs(images: int = 3, size: int = 96) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(images, 3, size, size)).astype(np.float32)


def by_weights(network: torch.nn.Module, images: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """relu(sum over k of W[class, k] A[k]) of a ResNet, with its largest value at 1."""
    found: list[torch.Tensor] = []
    handle = network.layer4.register_forward_hook(lambda _module, _inputs, output: found.append(output))
    with torch.inference_mode():
        network(torch.from_numpy(images))
    handle.remove()
    maps = torch.einsum("nk,nkhw->nhw", network.fc.weight[torch.from_numpy(classes)], found[0]).relu()
    return (maps / maps.amax(dim=(1, 2), keepdim=True).clamp_min(1e-12)).detach().numpy()


@pytest.mark.parametrize("name", ["resnet18", "resnet50d"])
def test_of_pooling_and_one_linear_layer_it_is_the_weights_times_the_features(name: str) -> None:
    torch.manual_seed(0)
    network = build(name, 7, zero_init_residual=True).eval()
    images, classes = inputs(), np.array([6, 0, 3])

    np.testing.assert_allclose(
        gradcam(network, images, classes), by_weights(network, images, classes), atol=1e-5
    )


def test_a_branch_of_a_residual_block_is_not_taken_for_the_whole() -> None:
    """At 32 px the last block answers with one place; its branches begin with four."""
    bottleneck = torchvision.models.resnet.Bottleneck
    network = torchvision.models.ResNet(bottleneck, [1, 1, 1, 1], num_classes=7).eval()

    assert _last_feature_map(network, torch.from_numpy(inputs(1, 32))).module is network.layer3
    assert gradcam(network, inputs(size=32), np.array([0, 1, 2])).shape == (3, 2, 2)


def test_what_speaks_for_a_class_glows_where_it_is() -> None:
    """A network that adds up red on the left half for class 0 and on the right half for class 1."""

    class Halves(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.look = torch.nn.Identity()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            seen = self.look(images)
            middle = seen.shape[3] // 2
            left, right = seen[..., :middle].mean(dim=(2, 3)), seen[..., middle:].mean(dim=(2, 3))
            return torch.stack([left[:, 0], right[:, 0]], dim=1)

    image = np.zeros((1, 3, 8, 8), np.float32)
    image[0, 0, 2, 6] = 1.0

    found = gradcam(Halves().eval(), image, np.array([1]))[0]
    assert np.unravel_index(found.argmax(), found.shape) == (2, 6)


@pytest.mark.parametrize("architecture", ["mobilenet_v3_small", "efficientnet_b0", "convnext_tiny", "vgg11"])
def test_any_network_with_a_feature_map_has_one(architecture: str) -> None:
    network = getattr(torchvision.models, architecture)(num_classes=5).eval()
    found = gradcam(network, inputs(2, 64), np.array([0, 4]))

    assert found.shape[0] == 2
    assert found.shape[1] > 1
    assert 0 <= found.min() <= found.max() <= 1


def test_more_images_than_a_batch_get_each_their_own() -> None:
    torch.manual_seed(0)
    network, images = Small(3).eval(), inputs(20, 24)
    classes = np.arange(20) % 3

    together = gradcam(network, images, classes)
    np.testing.assert_allclose(together[17], gradcam(network, images[17:18], classes[17:18])[0], atol=1e-5)


def test_a_network_without_a_feature_map_has_none() -> None:
    assert gradcam(Line(2).eval(), inputs(), np.array([0, 1, 1])) is None
