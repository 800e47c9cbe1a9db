"""The arithmetic of `estimate`: hours, dollars and bottleneck."""

from __future__ import annotations

import gzip
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from trainer.config import load_recipe, shipped_recipes
from trainer.instances import INSTANCES, SPOT_SHARE, find_instance
from trainer.performance import (
    IMAGENET,
    PUBLISHED,
    Estimate,
    PublishedRun,
    cheapest_of_each_bar,
    cheapest_of_each_gpu,
    estimate,
    offers,
)


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


def test_a_budget_is_compared_with_the_cheapest_machine_of_each_gpu() -> None:
    every = offers(load_recipe("rn50-75"))
    made = cheapest_of_each_gpu(every)

    assert {one.instance for one in every} == INSTANCES.keys()
    assert [one.usd for one in made] == sorted(one.usd for one in made)
    assert {one.gpu for one in made} == {"T4", "A10G", "L4", "L40S", "A100", "H100"}
    assert {one.instance for one in made if one.gpus == 1} == {"g4dn.xlarge", "g5.xlarge", "g6.xlarge"}
    for one in made:
        assert one.spot_usd == pytest.approx(one.usd * SPOT_SHARE)
        assert one.fits(one.spot_usd)
        assert not one.fits(one.spot_usd - 0.01)


def test_a_spot_price_of_now_replaces_the_assumed_one() -> None:
    (one,) = offers(load_recipe("rn50-75"), {"g5.xlarge": find_instance("g5.xlarge")}, spot_usd_per_hour=0.3)

    assert one.spot_usd == pytest.approx(0.3 * one.hours)
    assert one.usd == pytest.approx(1.006 * one.hours)


def test_of_all_recipes_for_one_bar_the_cheapest_is_shown_from_the_highest_bar_down() -> None:
    shown = cheapest_of_each_bar(offers(load_recipe(name)) for name in shipped_recipes())

    bars = [ones[0].bar or 0.0 for ones in shown]
    assert bars == sorted(set(bars), reverse=True)
    assert "rn50-mild" in {ones[0].recipe for ones in shown}
    assert "rn50-baseline" not in {ones[0].recipe for ones in shown}


@pytest.mark.parametrize("run", PUBLISHED, ids=lambda run: run.who)
def test_published_runs_stand_in_the_docs_and_their_hours_and_images_agree(run: PublishedRun) -> None:
    docs = (Path(__file__).parents[2] / "docs" / "performance.md").read_text()

    assert run.who in docs
    assert f"{run.top1:.2%}".replace("%", " %") in docs
    if run.images_per_second:  # their evaluations, restarts and pauses are in their hours as well
        assert 0.6 < run.epochs * IMAGENET[0] / run.images_per_second / 3600 / run.hours < 1.1


def test_the_table_of_machines_is_that_of_aws() -> None:
    """moto ships what DescribeInstanceTypes answers."""
    moto = pytest.importorskip("moto")
    types = json.loads(
        gzip.decompress((Path(moto.__file__).parent / "ec2/resources/instance_types.json.gz").read_bytes())
    )
    for name, machine in INSTANCES.items():
        aws = types[name]
        (gpu,) = aws["GpuInfo"]["Gpus"]
        assert (machine.gpu, machine.gpus) == (gpu["Name"], gpu["Count"])
        assert machine.vcpus == aws["VCpuInfo"]["DefaultVCpus"]
        assert machine.memory_gib == aws["MemoryInfo"]["SizeInMiB"] / 1024
        assert machine.nvme_gb == aws["InstanceStorageInfo"]["TotalSizeInGB"]
    for family in ("g4dn", "g5", "g6", "g6e"):
        assert {name for name in types if name.startswith(f"{family}.")} <= INSTANCES.keys()
