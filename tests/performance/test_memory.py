"""What torch needs of a GPU's memory, and what it leaves to DALI."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker
from torch.nn import functional as F
from torchvision.models import resnet50

from tests.conftest import ALONE
from trainer.config import Recipe, load_recipe
from trainer.performance._memory import GIB, reserve, training_bytes


@pytest.fixture(scope="module")
def recipe() -> Recipe:
    return load_recipe("rn50-baseline")


@pytest.mark.parametrize(("images", "size"), [pytest.param(64, 224, marks=pytest.mark.slow), (64, 160)])
def test_what_training_needs_is_what_torch_counts(recipe: Recipe, images: int, size: int) -> None:
    """On tensors without memory, on the CPU in bf16: its autocast keeps the same tensors as a GPU's."""
    with FakeTensorMode():
        model = resnet50()
        for weights in model.parameters():  # `to` cannot swap tensors without memory
            if weights.dim() == 4:
                weights.data = weights.data.to(memory_format=torch.channels_last)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        tracker = MemTracker()
        tracker.track_external(model, optimizer)
        with tracker:
            for _ in range(2):
                tracker.reset_mod_stats()
                photos = torch.randn(images, 3, size, size, dtype=torch.bfloat16)
                photos = photos.to(memory_format=torch.channels_last)
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = F.cross_entropy(model(photos), torch.zeros(images, dtype=torch.int64))
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
        peak: dict[Any, dict[Any, int]] = tracker.get_tracker_snapshot("peak")
    counted = sum(of_device["Total"] for of_device in peak.values())

    crops = replace(recipe.preprocess, train_size=size)
    assert training_bytes(replace(recipe, preprocess=crops), images) == pytest.approx(counted, rel=0.1)


def test_dali_is_left_a_gibibyte_and_seven_batches(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    at_once = 256 * 3 * 224 * 224

    assert reserve(recipe, 256, ALONE) == GIB + 7 * 4 * at_once
    monkeypatch.setattr("torch.cuda.get_device_capability", lambda device: (7, 5))
    pretended = replace(ALONE, device=torch.device("cuda", 0))
    assert reserve(replace(recipe, precision="fp32"), 256, pretended) == GIB + 7 * 4 * at_once
    assert reserve(replace(recipe, precision="fp16"), 256, pretended) == GIB + 7 * 2 * at_once
