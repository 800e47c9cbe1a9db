"""`python -m benchmarks.huggingface`, small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.huggingface import LOOPS, VAL_NUMBERS, bench_shards


@pytest.mark.slow
@pytest.mark.parametrize("layout", LOOPS)
def test_both_make_all_files_and_are_measured(tmp_path: Path, layout: str) -> None:
    for peer in ("datasets", "webdataset"):
        pytest.importorskip(peer, reason="./scripts/install --group bench brings it")
    result = bench_shards(tmp_path, layout, images=300, rounds=1)

    assert result.images == 300 + len(VAL_NUMBERS)
    assert result.seconds.keys() == result.cpu_seconds.keys() == {"loop", "trainer"}
    assert all(written >= result.image_bytes for written in result.bytes_written.values())
    assert result.bytes_ratio < 1.02
    assert result.peak_mib["trainer"] < 1024
    assert json.dumps(result.seconds)
