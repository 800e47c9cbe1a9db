"""What `scripts/gpu-check` writes; its measurements are those of `trainer bench`."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import benchmarks.gpu_check
from benchmarks.gpu_check import Autotuned, GpuCheck, Outcomes, main, table
from tests.conftest import ALONE
from trainer.config import Execution, Recipe
from trainer.dataset import Dataset
from trainer.performance import bench_loader, bench_train


@pytest.fixture(scope="module")
def result(tiny: Recipe, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> GpuCheck:
    small = replace(tiny, model="tests.nets:Small")
    train = bench_train(small, dataset.train, ALONE, Execution(decoder="cpu"), steps=1, rounds=1)
    loader = bench_loader(
        dataset.train,
        small,
        ALONE,
        tmp_path_factory.mktemp("formats"),
        images=8,
        rounds=1,
        only=["dali_reader"],
    )
    tuned = {name: Autotuned(train, {"off": 12.3, "cpu": 11.0}) for name in ("bf16", "fp16")}
    return GpuCheck("2026-11-26", "abc", "unknown", "x86_64", Outcomes(3, 0, 1), tuned, loader)


def test_the_table_has_a_row_for_each_precision_and_each_loader(result: GpuCheck) -> None:
    lines = table(result).splitlines()

    head = next(index for index, line in enumerate(lines) if line.startswith("| precision wanted"))
    rows = lines[head : head + 4]
    assert {row.count("|") for row in rows} == {16}
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["bf16", "fp16"]
    assert "- fp16: off 12.3, cpu 11.0" in lines
    assert [line.split("|")[1].strip() for line in lines[-2:]] == ["trainer", "dali_reader"]


@pytest.mark.parametrize(("failed", "code"), [(0, 0), (2, 1)])
def test_it_writes_json_and_a_table_and_fails_with_its_tests(
    result: GpuCheck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failed: int, code: int
) -> None:
    checked = replace(result, tests=Outcomes(3, failed, 1))
    monkeypatch.setattr(benchmarks.gpu_check, "check", lambda device: checked)

    assert main(["--device", "cpu", "--out", str(tmp_path / "new")]) == code
    assert json.loads((tmp_path / "new" / "gpu-check.json").read_text()) == json.loads(
        json.dumps(asdict(checked))
    )
    assert (tmp_path / "new" / "gpu-check.md").read_text() == table(checked)


def test_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmarks.gpu_check, "NEEDED", ("no_such_library", "torch"))

    assert main(["--device", "cpu"]) == 2
    assert "not installed here: no_such_library;" in capsys.readouterr().err
