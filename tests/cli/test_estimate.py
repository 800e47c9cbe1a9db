"""`trainer estimate` as it is typed; tests/performance/test_estimate.py has the arithmetic."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from trainer.cli import main
from trainer.instances import INSTANCES


def figures(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["estimate", *arguments, "--json"]) == 0
    result: dict[str, Any] = json.loads(capsys.readouterr().out)
    return result


def test_options_reach_the_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    at = ["--instance", "g5.12xlarge", "--images-per-second", "317", "--price", "1.6"]
    one = figures(capsys, "rn50-onecycle", *at)["g5.12xlarge"]

    assert one["images_per_second"] == 4 * 317
    assert one["bottleneck"] == "GPU"
    assert one["usd"] == pytest.approx(1.6 * one["hours"])
    assert one["measured"]


@pytest.mark.parametrize(
    ("option", "bottleneck"), [("--disk-mb", "disk throughput"), ("--disk-iops", "disk IOPS")]
)
def test_a_slow_disk_is_the_bottleneck(
    capsys: pytest.CaptureFixture[str], option: str, bottleneck: str
) -> None:
    one = figures(capsys, "rn50-baseline", "--instance", "g4dn.xlarge", option, "20")["g4dn.xlarge"]

    assert one["bottleneck"] == bottleneck


def test_without_an_instance_all_are_estimated(capsys: pytest.CaptureFixture[str]) -> None:
    assert figures(capsys, "rn50-baseline", "--set", "preprocess.train_size=158").keys() == INSTANCES.keys()


def test_a_data_set_of_ones_own_counts(capsys: pytest.CaptureFixture[str], photos: Path) -> None:
    one = figures(capsys, "digits", "--instance", "g4dn.xlarge", "--data", str(photos))["g4dn.xlarge"]

    assert one["disk_gb"] < 0.001
    assert one["hours"] < 0.001


def test_the_table_says_that_it_predicts(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "rn50-baseline"]) == 0
    said = capsys.readouterr().out

    assert "rn50-baseline, 90 epochs at 224 px of ImageNet as published" in said
    assert "A prediction" in said
    assert all(name in said for name in ("g4dn.xlarge", "g5.12xlarge", "p5.48xlarge"))


def test_an_unknown_instance_names_the_known_ones(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "digits", "--instance", "g5.huge"]) == 2
    assert "--instance g5.huge is not known; known are g4dn (xlarge, 2xlarge" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["p3.2xlarge", "p3dn.24xlarge"])
def test_volta_is_refused_with_its_reason(capsys: pytest.CaptureFixture[str], name: str) -> None:
    assert main(["estimate", "digits", "--instance", name]) == 2
    assert "for which CUDA 13 has no code; rent a g4dn" in capsys.readouterr().err


def test_one_machine_is_shown_with_what_it_has_and_the_quota_it_needs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["estimate", "rn50-75", "--instance", "g6e.12xlarge"]) == 0
    said = capsys.readouterr().out

    assert "4 L40S, 48 vCPU, 384 GiB, 3,800 GB of NVMe" in said
    assert "48 vCPU of G and VT instances, on demand and spot each" in said


def test_a_budget_shows_what_users_measured_first_and_then_predictions(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["estimate", "--budget", "30", "--until", "0.75"]) == 0
    said = capsys.readouterr().out

    assert all(len(line) <= 80 for line in said.splitlines())
    theirs, ours = said.index("Measured by users of other code"), said.index("Predicted by us; nobody")
    assert theirs < said.index("75.29%   27.0 h $ 26.41  g5.8xlarge   cr21/Resnet50-Imagenet1K") < ours
    assert "the next one costs more:\n  75.11%   20.0 h $ 32.00  g5.12xlarge" in said
    assert ours < said.index("rn50-78") < said.index("rn50-mild") < said.index("40 % of on demand")
    assert "rn50-65" not in said


def test_a_budget_is_json_for_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["estimate", "--budget", "5", "--json", "--instance", "g5.xlarge", "--spot-price", "0.4"]) == 0
    )
    said = json.loads(capsys.readouterr().out)

    assert (said["budget"], said["until"], said["measured_by_users"]) == (5, None, [])
    fits = {one["recipe"]: one["fits"] for one in said["predicted"]}
    assert fits["rn50-65"]
    assert not fits["rn50-78"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "give a RECIPE (trainer recipes lists them), or --budget USD"),
        (["--set", "epochs=3", "--budget", "5"], "--set changes a recipe; give a RECIPE as well"),
        (["digits", "--until", "0.7"], "--until belongs to --budget USD"),
        (["digits", "--spot-price", "0.7"], "--spot-price belongs to --budget USD"),
        (["--budget", "5", "--price", "0.7"], "--price is of one machine; say of which with --instance NAME"),
        (["digits", "--images-per-second", "9"], "--images-per-second is of one machine; say of which"),
    ],
)
def test_options_that_mean_nothing_together_are_refused(
    capsys: pytest.CaptureFixture[str], arguments: list[str], says: str
) -> None:
    assert main(["estimate", *arguments]) == 2
    assert says in capsys.readouterr().err


def test_a_bar_that_no_recipe_is_for_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["estimate", "--budget", "5", "--until", "0.99"]) == 0
    assert "no shipped recipe is for that much" in capsys.readouterr().out


@pytest.mark.parametrize("name", INSTANCES)
def test_the_docs_have_each_machine_as_the_command_estimates_it(
    capsys: pytest.CaptureFixture[str], name: str
) -> None:
    (one,) = figures(capsys, "rn50-75", "--budget", "1", "--instance", name)["predicted"]
    machine = INSTANCES[name]
    row = (
        f"| {name} | {machine.gpus} {machine.gpu} | {machine.vcpus} {machine.quota} | {machine.memory_gib:,} | "
        f"{machine.nvme_gb:,} | ${machine.usd_per_hour:.3f} | {one['hours']:.1f} h, ${one['usd']:.2f} | "
        f"${one['spot_usd']:.2f} |"
    )

    assert row in (Path(__file__).parents[2] / "docs" / "aws.md").read_text().splitlines()
