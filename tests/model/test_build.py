"""The network."""

import sys

import pytest
import torch

from trainer.errors import ConfigError
from trainer.model import architectures, build


def test_it_is_resnet_50_v1_5_in_channels_last_layout():
    network = build("resnet50", 1000)

    assert sum(p.numel() for p in network.parameters()) == 25_557_032
    assert network.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert network.layer2[0].conv2.stride == (2, 2), "v1.5: the stride is in the 3 x 3 convolution"


def test_residual_blocks_can_start_as_identity():
    assert not build("resnet50", 10, zero_init_residual=True).layer1[0].bn3.weight.any()
    assert build("resnet50", 10).layer1[0].bn3.weight.all()


def test_an_unknown_architecture_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="use one of torchvision's, such as resnet18"):
        build("resnet5", 10)


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "convnext_tiny", "vit_b_16"])
def test_torchvisions_other_classifiers_are_there(name):
    with torch.device("meta"):
        network = build(name, 7, zero_init_residual=True)
        answer = network(torch.empty(2, 3, 224, 224))

    assert answer.shape == (2, 7)


def test_every_architecture_that_is_named_answers_with_one_tensor():
    assert {"googlenet", "inception_v3"}.isdisjoint(architectures())
    assert len(architectures()) > 50


def test_ones_own_network_is_found_from_the_folder_one_is_in(tmp_path, monkeypatch):
    (tmp_path / "my_nets.py").write_text(
        "import torch\n"
        "def small(num_classes):\n"
        "    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(4, num_classes))\n"
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
