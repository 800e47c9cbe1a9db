"""Blocks that images skip in training."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torchvision.models.resnet import BasicBlock, ResNet

from trainer.errors import ConfigError
from trainer.model import build, skip_blocks


@pytest.mark.parametrize("name", ["resnet50", "resnet18", "resnet50d"])
def test_the_shares_grow_from_block_to_block_as_timms(name: str) -> None:
    with torch.device("meta"):
        ours, theirs = build(name, 10), timm.create_model(name, num_classes=10, drop_path_rate=0.1)
    names = set(ours.state_dict())
    skip_blocks(ours, 0.1)
    shares = [hook._share for layer in ours.modules() for hook in layer._forward_hooks.values()]
    paths = [
        block.drop_path
        for stage in (theirs.layer1, theirs.layer2, theirs.layer3, theirs.layer4)
        for block in stage
    ]
    expected = [path.drop_prob if hasattr(path, "drop_prob") else 0.0 for path in paths]

    assert shares == pytest.approx(expected)
    assert shares[-1] == 0.1
    assert set(ours.state_dict()) == names


def test_each_image_skips_a_block_by_chance_and_others_have_it_enlarged_for_that() -> None:
    torch.manual_seed(0)
    first, second = BasicBlock(4, 4), BasicBlock(4, 4)
    added: list[torch.Tensor] = []
    second.bn2.register_forward_hook(lambda *args: added.append(args[2].clone()))
    skip_blocks(torch.nn.Sequential(first, second), 0.25)
    second.bn2.register_forward_hook(lambda *args: added.append(args[2].clone()))
    second(torch.randn(4000, 4, 2, 2))
    whole, dropped = added
    kept = dropped.abs().amax(dim=(1, 2, 3)) > 0

    assert 1 - kept.float().mean().item() == pytest.approx(0.25, abs=0.03)
    torch.testing.assert_close(dropped, whole / 0.75 * kept[:, None, None, None])


def test_in_eval_mode_no_block_is_skipped() -> None:
    torch.manual_seed(0)
    network = ResNet(BasicBlock, [1, 1, 1, 1], num_classes=3)
    plain = copy.deepcopy(network)
    skip_blocks(network, 0.9)
    images = torch.randn(16, 3, 32, 32)
    with torch.no_grad():
        trained, whole = network.train()(images), plain.train()(images)
        assert not torch.equal(trained, whole)
        network.load_state_dict(plain.state_dict())
        torch.testing.assert_close(network.eval()(images), plain.eval()(images), rtol=0, atol=0)


def test_a_network_without_residual_blocks_is_refused() -> None:
    with pytest.raises(ConfigError, match="stochastic_depth is for torchvision's ResNets"):
        skip_blocks(build("mobilenet_v3_small", 3), 0.1)
