"""What `bench_train` reports. How fast anything is, is not tested here."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.conftest import ALONE
from trainer.config import Execution, Recipe, load_recipe
from trainer.dataset import Dataset
from trainer.performance import bench_train, repeat_images, roofline


@pytest.mark.slow
def test_throughputs_and_the_parts_of_a_step_are_reported(dataset: Dataset, tmp_path: Path) -> None:
    trace = tmp_path / "traces" / "trace.json"
    recipe = load_recipe("digits", ["global_batch=4", "model=tests.nets:Small"])
    execution = Execution(batch_per_gpu=2, decoder="cpu")
    result = bench_train(recipe, dataset.train, ALONE, execution, steps=2, rounds=2, profile=trace)

    assert result.images_per_second.keys() == {"synthetic", "real", "loader", "plain", "validation"}
    assert all(len(rounds) == 2 and min(rounds) > 0 for rounds in result.by_round.values())
    assert result.step_ms.keys() == {"data", "forward", "backward", "count", "optimizer"}
    step = result.global_batch / result.images_per_second["real"]
    assert 0.01 * step < sum(result.step_ms.values()) / 1000 < 100 * step  # in milliseconds, not seconds
    assert 0 < result.validation_share < 1
    assert result.roofline.flops_share > 0
    assert (result.global_batch, result.micro_batch, result.gpu_memory) == (4, 2, None)
    assert json.loads(trace.read_text())["traceEvents"]
    assert json.loads(json.dumps(asdict(result)))["execution"] == asdict(execution)


def test_the_counted_arithmetic_of_resnet_50_is_the_published_one(tiny: Recipe) -> None:
    """4.089 GMAC forward (torchvision's metadata); three times that, but for the gradient of the pixels."""
    preprocess = replace(tiny.preprocess, train_size=224, val_size=224, val_resize=256)
    limits = roofline(replace(tiny, model="resnet50", preprocess=preprocess), ALONE, 1.0)

    assert limits.gflop_per_image == pytest.approx(2 * (3 * 4.089 - 0.118), rel=0.005)
    assert limits.flops_share == pytest.approx(limits.gflop_per_image / 1e3 / limits.matmul_tflops)
    assert limits.bandwidth_share == pytest.approx(0.94 / limits.memory_gb_per_second)  # 470 MB in 16 bits


def test_images_are_repeated_to_the_exact_number(dataset: Dataset) -> None:
    split = dataset.train

    assert [len(repeat_images(split, count)) for count in (3, 20, 47)] == [3, 20, 47]
    assert repeat_images(split, 47).path(41) == split.path(1)
