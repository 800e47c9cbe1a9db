"""The network."""

import pytest
import torch

from trainer.errors import ConfigError
from trainer.model import build


def test_it_is_resnet_50_v1_5_in_channels_last_layout():
    network = build("resnet50", 1000)

    assert sum(p.numel() for p in network.parameters()) == 25_557_032
    assert network.conv1.weight.is_contiguous(memory_format=torch.channels_last)
    assert network.layer2[0].conv2.stride == (2, 2), "v1.5: the stride is in the 3 x 3 convolution"


def test_residual_blocks_can_start_as_identity():
    assert not build("resnet50", 10, zero_init_residual=True).layer1[0].bn3.weight.any()
    assert build("resnet50", 10).layer1[0].bn3.weight.all()


def test_an_unknown_architecture_is_refused_with_those_there_are():
    with pytest.raises(ConfigError, match="use one of resnet50"):
        build("resnet5", 10)
