"""What `scripts/gpu-check` writes; its measurements are those of `trainer bench`."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

import benchmarks.gpu_check
from benchmarks.gpu_check import (
    ASLEEP,
    HEURISTIC,
    SEARCHED,
    SPINNING,
    Autotuned,
    GpuCheck,
    Outcomes,
    main,
    put_row,
    readme_row,
    table,
    verdict,
)
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
    tuned = {name: Autotuned(train, {"off": 12.3, "default": 24.6, "cpu": 11.0}) for name in ("fp16", "bf16")}
    figures = {"images_per_second": 10.0, "busy_cores": 2.0}
    contenders = {
        SEARCHED: figures,
        HEURISTIC: figures,
        ASLEEP: figures,
        SPINNING: {**figures, "busy_cores": 4.0},
    }
    return GpuCheck(
        "2026-11-26", "abcdefgh", "unknown", "x86_64", Outcomes(3, 0, 1), tuned, contenders, loader
    )


def test_the_table_has_a_row_for_each_precision_and_each_loader(result: GpuCheck) -> None:
    lines = table(result).splitlines()

    head = next(index for index, line in enumerate(lines) if line.startswith("| precision wanted"))
    rows = lines[head : head + 4]
    assert {row.count("|") for row in rows} == {17}
    assert [row.split("|")[1].strip() for row in rows[2:]] == ["fp16", "bf16"]
    assert "- fp16: off 12.3, default 24.6, cpu 11.0" in lines
    assert [line.split("|")[1].strip() for line in lines[-2:]] == ["trainer", "dali_reader"]
    assert "| trainer |" not in table(replace(result, loader=None))


def test_the_verdict_says_which_contender_won_by_how_much(result: GpuCheck) -> None:
    lines = verdict(result)

    assert "fp16 makes 1.00 times the images of bf16." in lines
    assert "bf16: default wins: 2.00 times off." in lines
    assert "cuDNN's search makes 1.00 times the images of its heuristic." in lines
    assert any("keeps 2.0 processors at work, 4.0 where CUDA waits in a loop" in line for line in lines)
    assert lines[-1].startswith("Recommended: --batch-per-gpu 8 --compile off --decoder cpu, in ")


def test_readme_gets_one_row_for_each_gpu(result: GpuCheck, tmp_path: Path) -> None:
    row = readme_row(result, tmp_path / "page.md")
    head = "before\n\n| GPU | images/s |\n|---|---|\n"
    once = put_row(f"{head}| none yet | |\n\nafter\n", row)
    twice = put_row(once, row)

    assert once == twice == f"{head}{row}\n\nafter\n"
    assert put_row(once, "| T4 | 1 |") == f"{head}{row}\n| T4 | 1 |\n\nafter\n"
    readme = Path(benchmarks.gpu_check.__file__).parents[1] / "README.md"
    assert row in put_row(readme.read_text(), row)


@pytest.mark.parametrize(("failed", "code"), [(0, 0), (2, 1)])
def test_it_writes_json_and_a_page_and_fails_with_its_tests(
    result: GpuCheck, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failed: int, code: int
) -> None:
    checked = replace(result, tests=Outcomes(3, failed, 1))
    monkeypatch.setattr(benchmarks.gpu_check, "check", lambda device, **_: checked)

    assert main(["--device", "cpu", "--out", str(tmp_path / "new")]) == code
    (written,) = (tmp_path / "new").glob("2026-11-26-*.json")
    assert json.loads(written.read_text()) == json.loads(json.dumps(asdict(checked)))
    assert written.with_suffix(".md").read_text() == table(checked)


def test_what_is_missing_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(benchmarks.gpu_check, "NEEDED", ("no_such_library", "torch"))

    assert main(["--device", "cpu"]) == 2
    assert "not installed here: no_such_library;" in capsys.readouterr().err
