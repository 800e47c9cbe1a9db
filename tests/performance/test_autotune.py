"""Autotuning: by trials, and only of settings that are not given."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ALONE
from tests.nets import Small
from trainer.config import CompileMode, Execution, Recipe
from trainer.dataloader import TrainLoader
from trainer.dataset import Dataset
from trainer.errors import GpuOutOfMemory
from trainer.performance import AutotuneResult, autotune, defaults, halve_batch_when_out_of_memory, measure
from trainer.performance._trials import read_files

Network = Callable[[torch.Tensor], torch.Tensor]


@pytest.fixture
def recipe(tiny: Recipe) -> Recipe:
    return replace(tiny, model="tests.nets:Small")


@pytest.mark.slow
def test_a_setting_that_fails_here_is_logged_and_not_chosen(
    recipe: Recipe, dataset: Dataset, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def compiler_fails(model: Network, **_: Any) -> Network:
        raise RuntimeError("no compiler\nhere")

    monkeypatch.setattr("torch.compile", compiler_fails)
    result = measure(recipe, dataset.train, ALONE, steps=1, short_run=0)

    assert result.execution == Execution(batch_per_gpu=8, compile="off", decoder="cpu")
    warnings = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert warnings[:2] == [
        f"{name} does not run here (RuntimeError: no compiler)" for name in ("default", "cudagraphs")
    ]
    assert [line.split()[0] for line in warnings[2:]] == ["mixed", "mixed-huffman"]  # there is no GPU
    assert set(result.throughputs) == {"off", "cpu"}


def test_the_fastest_is_chosen(recipe: Recipe, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that only forward passes move."""
    seconds = {"off": 0.15, "default": 0.01, "reduce-overhead": 0.3}
    now = 0.0
    run = Small.forward

    def timed(model: Small, images: torch.Tensor, mode: str) -> torch.Tensor:
        nonlocal now
        now += seconds[mode]
        return run(model, images)

    def compile_(model: Small, *, mode: str, dynamic: bool) -> Network:
        return lambda images: timed(model, images, mode)

    monkeypatch.setattr("time.perf_counter", lambda: now)
    monkeypatch.setattr(Small, "forward", lambda model, images: timed(model, images, "off"))
    monkeypatch.setattr("torch.compile", compile_)
    result = measure(recipe, dataset.train, ALONE, decoder="cpu", steps=2, short_run=0)

    assert result.execution.compile == "default"
    assert result.throughputs["off"] > result.throughputs["cudagraphs"]
    assert result.throughputs == pytest.approx({"off": 8 / 0.15, "default": 800, "cudagraphs": 8 / 0.3})


def test_when_the_time_is_used_up_no_further_trial_begins(recipe: Recipe, dataset: Dataset) -> None:
    result = measure(recipe, dataset.train, ALONE, decoder="cpu", steps=1, time_budget=0, short_run=0)

    assert result.throughputs.keys() == {"off"}


def test_what_is_given_is_not_tried(recipe: Recipe, dataset: Dataset) -> None:
    result = measure(recipe, dataset.train, ALONE, batch_per_gpu=4, compile="off", decoder="cpu")

    assert result == AutotuneResult(Execution(batch_per_gpu=4, compile="off", decoder="cpu"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA's"), RuntimeError("unable to find an engine")]
)
def test_a_batch_that_does_not_fit_is_halved(
    recipe: Recipe, dataset: Dataset, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    run = Small.forward

    def forward(self: Small, images: torch.Tensor) -> torch.Tensor:
        if len(images) > 2:
            raise error
        return run(self, images)

    monkeypatch.setattr(Small, "forward", forward)
    result = measure(recipe, dataset.train, ALONE, compile="off", decoder="cpu")

    assert result.execution.batch_per_gpu == 2


def test_where_not_even_one_image_fits_the_error_says_why(
    recipe: Recipe, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(self: Small, images: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("a layer is wrong")

    monkeypatch.setattr(Small, "forward", forward)

    with pytest.raises(
        RuntimeError, match="not even one image at a time can be trained: RuntimeError: a layer is wrong"
    ):
        measure(recipe, dataset.train, ALONE, decoder="cpu")


def test_on_the_cpu_nothing_is_tried(recipe: Recipe, dataset: Dataset, tmp_path: Path) -> None:
    result = autotune(recipe, dataset.train, ALONE, tmp_path)

    assert result == defaults()
    assert result == AutotuneResult(Execution(batch_per_gpu=64, compile="off", decoder="cpu"))
    assert not list(tmp_path.iterdir())


def test_on_a_gpu_the_result_is_kept_for_its_kind_and_for_what_was_given(
    recipe: Recipe,
    dataset: Dataset,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A GPU as far as its name goes."""
    measured: list[CompileMode | None] = []
    name = "NVIDIA A10G"
    reserved: list[int] = []
    monkeypatch.setattr(
        "trainer.performance._autotune.leave_reserve", lambda recipe, size, world: reserved.append(size)
    )

    def pretended(*_: Any, compile: CompileMode | None, **others: Any) -> AutotuneResult:
        measured.append(compile)
        return AutotuneResult(Execution(batch_per_gpu=256, compile="default", decoder="mixed"), {"off": 1.0})

    gpu = replace(ALONE, device=torch.device("cuda", 0))
    monkeypatch.setattr("trainer.performance._autotune.measure", pretended)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: name)
    caplog.set_level(logging.INFO, "trainer")

    def tuned(*, compile: CompileMode | None = None, cores: int = 4) -> AutotuneResult:
        monkeypatch.setattr("os.sched_getaffinity", lambda _: range(cores))
        return autotune(recipe, dataset.train, gpu, tmp_path, compile=compile)

    first = tuned()
    assert tuned() == first
    assert len(measured) == len(caplog.messages) == 1
    assert "256 images at a time, compile default, decoder mixed; images/s tried: off 1" in caplog.messages[0]

    tuned(compile="off")
    tuned(cores=48)
    name = "Tesla T4"
    tuned()
    assert len(measured) == 4
    assert reserved == [8] * 5, "also where nothing is measured, memory is left to DALI"


def test_after_the_memory_ran_out_the_next_start_takes_half(
    recipe: Recipe, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU as far as its name goes, on which 256 images at a time fit until they do not."""
    limits: list[int] = []

    def pretended(*_: Any, max_batch: int, **others: Any) -> AutotuneResult:
        limits.append(max_batch)
        return AutotuneResult(Execution(batch_per_gpu=min(max_batch, 256), compile="off", decoder="cpu"))

    gpu = replace(ALONE, device=torch.device("cuda", 0))
    monkeypatch.setattr("trainer.performance._autotune.measure", pretended)
    monkeypatch.setattr("trainer.performance._autotune.leave_reserve", lambda *_: None)
    monkeypatch.setattr("torch.cuda.get_device_name", lambda _: "Tesla T4")

    def start(given: int | None, error: Exception) -> Execution:
        execution = autotune(recipe, dataset.train, gpu, tmp_path, batch_per_gpu=given).execution
        with halve_batch_when_out_of_memory(tmp_path, gpu, execution, given):
            raise error
        return execution

    with pytest.raises(
        GpuOutOfMemory, match=r"with 256 images at a time; .* goes on .* with 128 at most"
    ) as raised:
        start(None, torch.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    assert raised.value.exit_code == 1, "so that whoever starts crashed runs again does so"

    with pytest.raises(GpuOutOfMemory, match="with 128 images at a time"):
        start(None, RuntimeError("Critical error in pipeline: CUDA allocation failed"))
    with pytest.raises(RuntimeError, match="something else"):
        start(None, RuntimeError("something else"))
    assert limits == [512, 128, 64]

    with pytest.raises(GpuOutOfMemory, match="start again with a smaller --batch-per-gpu") as raised:
        start(32, torch.OutOfMemoryError("CUDA out of memory"))
    assert raised.value.exit_code == 2


def test_a_run_too_short_to_pay_for_trials_has_none(recipe: Recipe, dataset: Dataset) -> None:
    result = measure(recipe, dataset.train, ALONE, steps=1, short_run=1e9)

    assert result.execution == Execution(batch_per_gpu=8, compile="off", decoder="cpu")
    assert result.throughputs.keys() == {"off"}


def test_half_of_a_large_batch_is_tried_too(
    recipe: Recipe, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("trainer.performance._trials.LARGE_BATCH", 4)
    result = measure(recipe, dataset.train, ALONE, compile="off", decoder=None, steps=1, short_run=1e9)

    assert result.throughputs.keys() == {"8 images", "4 images", "off"}
    assert result.execution.batch_per_gpu == max(
        (8, 4), key=lambda size: result.throughputs[f"{size} images"]
    )


def test_before_the_decoders_are_tried_their_files_are_in_the_page_cache(
    recipe: Recipe, dataset: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    before = Path.read_bytes

    def noted(path: Path) -> bytes:
        read.append(path.name)
        return before(path)

    monkeypatch.setattr(Path, "read_bytes", noted)
    loader = TrainLoader(dataset.train, recipe, ALONE)
    read_files(loader, dataset.train, steps=2)

    planned = [dataset.train.path(index).name for step in (0, 1) for index in loader.indices(step, 0)]
    assert sorted(read) == sorted(planned)
