"""What a network is made of, against torchvision's own figures and plain counting."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torchvision
from torch import nn

from trainer.errors import ConfigError
from trainer.model import build, summary, summary_of


@pytest.mark.parametrize("name", ["resnet50", "vit_b_16", "convnext_tiny", "densenet121"])
def test_parameters_and_multiply_adds_are_those_that_torchvision_publishes(name: str) -> None:
    published = torchvision.models.get_model_weights(name).DEFAULT.meta
    made = summary_of(name, 1000, 224)

    assert made.parameters == published["num_params"]
    assert made.macs / 1e9 == pytest.approx(published["_ops"], abs=0.0006)
    assert 10 < len(made.layers) < 40, "a table that fits on a screen"


def test_resnet_50_is_shown_by_its_blocks() -> None:
    made = summary_of("resnet50", 1000, 224)
    rows = {layer.name: layer for layer in made.layers}

    assert (made.parameters, round(made.macs / 1e9, 3)) == (25_557_032, 4.089)
    assert made.line() == "25,557,032 parameters, 4.09 GMAC an image at 224 px"
    assert [*rows][:6] == ["conv1", "bn1", "relu", "maxpool", "layer1.0", "layer1.1"]
    assert rows["conv1"].macs == 64 * 3 * 7 * 7 * 112 * 112
    assert rows["layer4.2"].output == (2048, 7, 7)
    assert (rows["fc"].output, rows["fc"].parameters, rows["fc"].macs) == ((1000,), 2_049_000, 2_048_000)


def test_a_model_that_is_there_is_summarized_and_left_as_it_was() -> None:
    model = build("resnet18", 10).train()
    model.layer1.eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    made = summary(model, 64)

    assert made == summary_of("resnet18", 10, 64)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    assert model.training
    assert not model.layer1.training
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in model.modules())


class Own(nn.Module):
    """What blocks do not show: a layer that is used twice, one that is not, and a bare parameter."""

    def __init__(self, num_classes: int = 3) -> None:
        super().__init__()
        self.twice = nn.Conv2d(3, 3, 3, padding=1, bias=False)
        self.idle = nn.Linear(2, 2)
        self.head = nn.Linear(3, num_classes)
        self.bare = nn.Parameter(torch.zeros(3, 3))

    def forward(self, images: torch.Tensor) -> Any:
        return self.head(self.twice(self.twice(images)).mean(dim=(2, 3)) @ self.bare)


class Looking(Own):
    """Goes by the numbers that it sees, which fake ones do not have."""

    def forward(self, images: torch.Tensor) -> Any:
        return super().forward(images) if images.sum().item() == 0 else images


@pytest.mark.parametrize("kind", [Own, Looking])
def test_a_network_of_ones_own_is_counted_in_full(kind: Any) -> None:
    made = summary(kind(), 8)
    rows = {layer.name: (layer.parameters, layer.macs) for layer in made.layers}

    assert rows == {
        "twice": (81, 2 * 81 * 64),
        "idle": (6, 0),
        "head": (12, 9),
        "(elsewhere)": (9, 9),
    }
    assert made.parameters == sum(parameter.numel() for parameter in kind().parameters())
    assert made.table().splitlines()[2].split() == ["idle", "Linear", "-", "6", "0.00"]


def test_a_network_that_takes_no_such_image_is_refused_with_its_own_words() -> None:
    with pytest.raises(
        ConfigError, match=r"cannot take an image of 16 x 16 pixels \(AssertionError: Wrong image"
    ):
        summary_of("vit_b_16", 10, 16)
