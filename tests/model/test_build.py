"""The network."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from trainer.errors import ConfigError
from trainer.model import architectures, build
from trainer.model._blurpool import BlurredConv2d


def test_it_is_resnet_50_v1_5_in_channels_last_layout() -> None:
    network = build("resnet50", 1000)

    assert sum(p.numel() for p in network.parameters()) == 25_557_032
    assert network.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert network.layer2[0].conv2.stride == (2, 2), "v1.5: the stride is in the 3 x 3 convolution"


def test_residual_blocks_can_start_as_identity() -> None:
    assert not build("resnet50", 10, zero_init_residual=True).layer1[0].bn3.weight.any()
    assert build("resnet50", 10).layer1[0].bn3.weight.all()


def test_blurpool_blurs_before_each_stride_but_the_first() -> None:
    plain, blurred = build("resnet50", 10), build("resnet50_blurpool", 10)
    layers = [name for name, layer in blurred.named_modules() if isinstance(layer, BlurredConv2d)]
    features = torch.randn(2, 128, 12, 12)
    convolution = blurred.layer2[0].conv2

    assert layers == [f"layer{n}.0.{part}" for n in (2, 3, 4) for part in ("conv2", "downsample.0")]
    assert sum(p.numel() for p in blurred.parameters()) == sum(p.numel() for p in plain.parameters())
    assert blurred(torch.zeros(2, 3, 64, 64)).shape == (2, 10)
    kernel = torch.tensor([[1.0, 2, 1], [2, 4, 2], [1, 2, 1]]) / 16
    padded = F.pad(features, (1, 1, 1, 1))
    smooth = sum(
        kernel[down, across] * padded[:, :, down : down + 12, across : across + 12]
        for down in range(3)
        for across in range(3)
    )
    torch.testing.assert_close(convolution(features), convolution.conv(smooth))


def test_an_unknown_architecture_is_refused_with_those_there_are() -> None:
    with pytest.raises(ConfigError, match="use one of torchvision's, such as resnet18"):
        build("resnet5", 10)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "convnext_tiny", "vit_b_16"])
def test_torchvisions_other_classifiers_are_there(name: str) -> None:
    with torch.device("meta"):
        network = build(name, 7, zero_init_residual=True)
        answer = network(torch.empty(2, 3, 224, 224))

    assert answer.shape == (2, 7)


def test_every_architecture_that_is_named_answers_with_one_tensor() -> None:
    assert {"googlenet", "inception_v3"}.isdisjoint(architectures())
    assert len(architectures()) > 50


def test_ones_own_network_is_found_from_the_folder_one_is_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_nets.py").write_text(
        "import torch\n"
        "def small(num_classes):\n"
        "    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1),\n"
        "        torch.nn.Flatten(), torch.nn.Linear(4, num_classes))\n"
        "def wrong(num_classes):\n"
        "    return num_classes\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.path", [*sys.path])

    assert build("my_nets:small", 5)(torch.zeros(2, 3, 8, 8)).shape == (2, 5)
    with pytest.raises(ConfigError, match="it answers int, not a"):
        build("my_nets:wrong", 5)
    with pytest.raises(ConfigError, match="my_nets:other cannot be imported"):
        build("my_nets:other", 5)
    with pytest.raises(ConfigError, match=r"no_such:Net cannot be imported .* PYTHONPATH"):
        build("no_such:Net", 5)
