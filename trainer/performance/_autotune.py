"""Autotuning before a run: micro-batch size, torch.compile mode and decoder, by timed trials on this GPU."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from trainer.config import CompileMode, Decoder, Execution, Recipe
from trainer.dataloader import default_decoder
from trainer.dataset import Split
from trainer.distributed import World
from trainer.errors import GpuOutOfMemory
from trainer.files import read_json, write_json
from trainer.performance._memory import leave_reserve
from trainer.performance._trials import MAX_BATCH, STEPS, TIME_BUDGET, Trials

# Seconds of training below which compile modes and decoders are not tried: two compilations take up to two minutes each
# on four virtual cores, and win 10 to 30 % where they win.
SHORT_RUN = 15 * 60.0
CPU_BATCH = 64  # images at a time on the CPU, where nothing is tried
RESULT_FILE = "autotune.json"
# DALI's and CUDA's words where torch's OutOfMemoryError is not raised.
_OUT_OF_MEMORY = re.compile("out of memory|CUDA allocation failed", re.IGNORECASE)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class AutotuneResult:
    """Execution settings for one kind of device, and the trials that decided them."""

    execution: Execution
    throughputs: dict[str, float] = field(default_factory=dict)  # images/s of all processes, by setting tried


def autotune(
    recipe: Recipe,
    split: Split,
    world: World,
    folder: Path,
    *,
    batch_per_gpu: int | None = None,
    compile: CompileMode | None = None,
    decoder: Decoder | None = None,
) -> AutotuneResult:
    """Execution settings for `recipe` on this machine: as given, and the fastest by trials where None is given.

    On the CPU nothing is tried. On a GPU the largest micro-batch that fits is found first, then the fastest compile
    mode on a synthetic batch, then the decoder that feeds it best. The first process decides for all. The result is
    kept in the run's folder for each kind of GPU, so a resumed run is not measured again. From here on torch leaves
    the GPU's other memory to DALI.

    Args:
        recipe: what is to be trained.
        split: training images for the trials of decoders.
        world: all processes, which take part in each trial.
        folder: folder of the run.
        batch_per_gpu: images that fit at a time.
        compile: torch.compile mode of the network.
        decoder: device that decodes JPEGs.
    """
    if world.device.type != "cuda":
        return defaults(batch_per_gpu=batch_per_gpu, compile=compile, decoder=decoder)
    device = torch.cuda.get_device_name(world.device)
    stored = world.broadcast_from_rank0(lambda: _read_results(folder).get(device, {}))
    asked = {
        "batch_per_gpu": batch_per_gpu,
        "compile": compile,
        "decoder": decoder,
        "processes": world.size,
        "cpu_cores": len(os.sched_getaffinity(0)),
    }
    if stored.get("asked") == asked:
        result = AutotuneResult(Execution(**stored["execution"]), stored["throughputs"])
    else:
        too_large = stored.get("too_large")
        mine = measure(
            recipe,
            split,
            world,
            batch_per_gpu=batch_per_gpu,
            compile=compile,
            decoder=decoder,
            max_batch=max(1, too_large // 2) if too_large else MAX_BATCH,
        )
        result = world.broadcast_from_rank0(lambda: mine)
        if world.is_main:
            kept = {"too_large": too_large} if too_large else {}
            _keep(
                folder,
                device,
                {"asked": asked, **dataclasses.asdict(result), "torch": torch.__version__, **kept},
            )
            _report(result)
    leave_reserve(recipe.at_full_res(), recipe.micro_batch(world.size, result.execution.batch_per_gpu), world)
    return result


@contextmanager
def halve_batch_when_out_of_memory(
    folder: Path, world: World, execution: Execution, given: int | None
) -> Iterator[None]:
    """Where the GPU's memory runs out in this context, note it, so that the next start takes half the micro-batch.

    Args:
        folder: folder of the run, where `autotune` keeps its results.
        world: for the GPU.
        execution: what is used in this context.
        given: images at a time that the user asked for; None: measured.

    Raises: GpuOutOfMemory.
    """
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, torch.OutOfMemoryError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        size = execution.batch_per_gpu
        if given or not size or size == 1:
            raise GpuOutOfMemory(
                f"the GPU's memory ran out with {size} images at a time; start again with a smaller --batch-per-gpu"
            ) from error
        _keep(folder, torch.cuda.get_device_name(world.device), {"too_large": size})
        raise GpuOutOfMemory(
            f"the GPU's memory ran out with {size} images at a time; start the same command again: it goes on from the "
            f"last checkpoint with {size // 2} at most",
            exit_code=1,
        ) from error


def _read_results(folder: Path) -> dict[str, Any]:
    """Results of earlier trials by GPU; none if the file is damaged, for trials can be repeated."""
    try:
        results: dict[str, Any] = read_json(folder / RESULT_FILE)
    except (OSError, ValueError):
        return {}
    return results


def _keep(folder: Path, device: str, result: dict[str, Any]) -> None:
    write_json(folder / RESULT_FILE, {**_read_results(folder), device: result})


def _report(result: AutotuneResult) -> None:
    execution = result.execution
    tried = ", ".join(f"{name} {throughput:,.0f}" for name, throughput in result.throughputs.items())
    logger.info(
        "%s images at a time, compile %s, decoder %s%s",
        execution.batch_per_gpu,
        execution.compile,
        execution.decoder,
        f"; images/s tried: {tried}" if tried else "",
    )


def defaults(
    *,
    batch_per_gpu: int | None = None,
    compile: CompileMode | None = None,
    decoder: Decoder | None = None,
) -> AutotuneResult:
    """Execution settings without trials: as given, and the simplest where None is given."""
    return AutotuneResult(
        Execution(
            batch_per_gpu=batch_per_gpu or CPU_BATCH, compile=compile or "off", decoder=decoder or "cpu"
        )
    )


def measure(
    recipe: Recipe,
    split: Split,
    world: World,
    *,
    batch_per_gpu: int | None = None,
    compile: CompileMode | None = None,
    decoder: Decoder | None = None,
    max_batch: int = MAX_BATCH,
    steps: int = STEPS,
    time_budget: float = TIME_BUDGET,
    short_run: float = SHORT_RUN,
) -> AutotuneResult:
    """Find by trials the execution settings that are None, with one micro-batch a step; see `autotune`.

    Args:
        recipe: what is to be trained.
        split: training images for the trials of decoders.
        world: all processes, which take part in each trial.
        batch_per_gpu: images that fit at a time.
        compile: torch.compile mode of the network.
        decoder: device that decodes JPEGs.
        max_batch: images at a time, at most.
        steps: timed steps of a trial, at most.
        time_budget: seconds for each setting, after which no further trial begins.
        short_run: seconds of training below which compile modes and decoders are not tried.

    Raises: DataError if the images cannot be read; RuntimeError with the last reason if no trial succeeds.
    """
    if batch_per_gpu and compile and decoder:
        return AutotuneResult(Execution(batch_per_gpu=batch_per_gpu, compile=compile, decoder=decoder))
    recipe = recipe.at_full_res()
    trials = Trials(recipe, split, world, steps=steps, time_budget=time_budget)
    size = batch_per_gpu or trials.fastest_size(max_batch)
    if compile is None or decoder is None:
        images = recipe.micro_batch(world.size, size)
        seconds = recipe.epochs * len(split) / trials.eager(images)
        is_short = world.broadcast_from_rank0(lambda: seconds < short_run)
        if compile is None:
            compile = "off" if is_short else trials.fastest_compile_mode(images)
        if decoder is None:
            decoder = default_decoder(world) if is_short else trials.fastest_decoder(images, compile)
    return AutotuneResult(Execution(batch_per_gpu=size, compile=compile, decoder=decoder), trials.throughputs)
