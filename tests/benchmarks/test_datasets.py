"""`python -m benchmarks.datasets`, small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.datasets import bench_open, main
from trainer.config import load_recipe


@pytest.mark.slow
def test_checking_is_compared_with_pillow(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "--images", "8", "--scratch", str(tmp_path), "--json"]) == 0

    figures = json.loads(capsys.readouterr().out)
    throughput = figures["images_per_second"]
    assert figures["images"] == 8
    assert figures["throughput_ratio"] == pytest.approx(throughput["trainer"] / throughput["pillow"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_preparing_is_compared_with_tar_and_find(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "--images", "200", "--scratch", str(tmp_path)]) == 0

    title, *rows = capsys.readouterr().out.splitlines()
    assert title.startswith("200 images, ")
    assert [row[:15].rstrip() for row in rows] == ["tar and find", "trainer prepare", "written"]


def test_a_long_manifest_is_opened(tmp_path: Path) -> None:
    result = bench_open(tmp_path, load_recipe("rn50-baseline", ["global_batch=4"]), images=(2000, 1000))

    assert (result.images, result.global_batch) == (3000, 4)
    assert 0 < result.open_seconds < result.first_batch_seconds
