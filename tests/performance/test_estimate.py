"""The arithmetic of `estimate`: hours, dollars and bottleneck."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest

from trainer.config import load_recipe
from trainer.instances import INSTANCES, find_instance
from trainer.performance import Estimate, estimate


def estimated(recipe: str, instance: str, *settings: str, **facts: Any) -> Estimate:
    return estimate(load_recipe(recipe, list(settings)), find_instance(instance), **facts)


def test_the_published_run_is_estimated_from_its_own_throughput() -> None:
    """60 epochs on 4 A10G at 317 images/s each took 20 hours and $32; 17 minutes an epoch are 19 of them."""
    one = estimated("rn50-onecycle", "g5.12xlarge", gpu_images_per_second=317, usd_per_hour=1.6)

    assert one.images_per_second == 4 * 317
    assert one.bottleneck == "GPU"
    assert one.hours == pytest.approx(60 * (1_281_167 + 50_000 / 3) / 1268 / 3600)
    assert 16 < one.hours < 20
    assert one.usd == pytest.approx(1.6 * one.hours)
    assert one.measured


@pytest.mark.parametrize(
    ("facts", "bottleneck"),
    [
        ({"disk_mb": 20}, "disk throughput"),
        ({"disk_iops": 100}, "disk IOPS"),
        ({"gpu_images_per_second": 5000, "disk_mb": 2000}, "CPU decode"),
        ({}, "GPU"),
    ],
)
def test_the_smallest_of_four_limits_is_the_bottleneck(facts: dict[str, float], bottleneck: str) -> None:
    one = estimated("rn50-baseline", "g4dn.xlarge", **facts)

    assert one.bottleneck == bottleneck
    assert one.images_per_second == min(one.limits.values())


def test_images_that_fit_into_memory_are_read_once() -> None:
    assert "disk throughput" in estimated("rn50-baseline", "g5.xlarge").limits
    assert "disk throughput" not in estimated("rn50-baseline", "g5.12xlarge").limits


def test_half_the_pixels_take_half_the_time_of_the_gpu() -> None:
    whole = estimated("rn50-baseline", "g4dn.xlarge")
    half = estimated("rn50-baseline", "g4dn.xlarge", "preprocess.train_size=158")

    assert half.limits["GPU"] / whole.limits["GPU"] == pytest.approx((224 / 158) ** 2)


def test_crops_that_grow_count_by_their_pixels_epoch_for_epoch() -> None:
    short = estimated("rn50-65", "g5.12xlarge")
    whole = estimated("rn50-65", "g5.12xlarge", "preprocess.min_res=192")
    seconds = (12 * 160**2 + 4 * 192**2) / (16 * 192**2)

    assert whole.images_per_second / short.images_per_second == pytest.approx(seconds)
    validation = 16 * 50_000 / 3 * (256 / 192) ** 2
    assert short.hours / whole.hours == pytest.approx(
        (16 * 1_281_167 * seconds + validation) / (16 * 1_281_167 + validation)
    )


@pytest.mark.parametrize("instance", INSTANCES)
def test_every_known_instance_can_be_estimated(instance: str) -> None:
    one = estimated("rn50-baseline", instance)

    assert min(asdict(one)["limits"].values()) > 0
    assert not one.measured
