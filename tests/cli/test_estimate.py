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
    assert "--instance g5.huge is not known; known are g4dn.xlarge" in capsys.readouterr().err
