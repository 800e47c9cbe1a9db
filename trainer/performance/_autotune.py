"""Autotuning before a run: micro-batch size, torch.compile mode and decoder, by timed trials on this GPU."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from trainer.config import CompileMode, Decoder, Execution, Recipe
from trainer.dataloader import TrainLoader
from trainer.dataset import Split
from trainer.distributed import World
from trainer.errors import DataError
from trainer.files import write_json
from trainer.performance._trial import CLASSES, Trial, fixed_batch

TIME_BUDGET = 30.0  # seconds for each setting: no further trial begins after it, a running one is finished
STEPS = 20  # timed steps of a trial, …
SECONDS = 4.0  # … or fewer, if they take longer than this
MAX_BATCH = 256  # images; larger micro-batches are not faster, and leave less room for the decoder
MAX_MEMORY_SHARE = 0.85  # of the GPU's memory for torch; the decoder needs some too
CPU_BATCH = 64  # images at a time on the CPU, where nothing is tried
RESULT_FILE = "autotune.json"
COMPILE_MODES: tuple[CompileMode, ...] = ("off", "default", "cudagraphs")
DECODERS: tuple[Decoder, ...] = ("mixed", "cpu", "mixed-huffman")

logger = logging.getLogger(__name__)

T = TypeVar("T", CompileMode, Decoder)


@dataclass(frozen=True)
class AutotuneResult:
    """Execution settings for one kind of device, and the trials that decided them."""

    execution: Execution
    throughputs: dict[str, float] = field(default_factory=dict)  # images/s of one process, by setting tried


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
    kept in the run's folder for each kind of GPU, so a resumed run is not measured again.

    Args:
        recipe: what is to be trained.
        split: training images for the trials of decoders.
        world: all processes; each tries at the same time, as they will train.
        folder: folder of the run.
        batch_per_gpu: images that fit at a time.
        compile: torch.compile mode of the network.
        decoder: device that decodes JPEGs.
    """
    if world.device.type != "cuda":
        return defaults(batch_per_gpu=batch_per_gpu, compile=compile, decoder=decoder)
    file = folder / RESULT_FILE
    device, known = world.broadcast_from_rank0(
        lambda: (torch.cuda.get_device_name(world.device), _read_results(file))
    )
    asked = {
        "batch_per_gpu": batch_per_gpu,
        "compile": compile,
        "decoder": decoder,
        "processes": world.size,
        "cpu_cores": len(os.sched_getaffinity(0)),
    }
    stored = known.get(device, {})
    if stored.get("asked") == asked:
        return AutotuneResult(Execution(**stored["execution"]), stored["throughputs"])
    mine = measure(recipe, split, world, batch_per_gpu=batch_per_gpu, compile=compile, decoder=decoder)
    result = world.broadcast_from_rank0(lambda: mine)
    if world.is_main:
        execution = dataclasses.asdict(result.execution)
        write_json(
            file,
            {
                **known,
                device: {
                    "asked": asked,
                    "execution": execution,
                    "throughputs": result.throughputs,
                    "torch": torch.__version__,
                },
            },
        )
        tried = ", ".join(f"{name} {throughput:,.0f}" for name, throughput in result.throughputs.items())
        logger.info(
            "%s images at a time, compile %s, decoder %s%s",
            result.execution.batch_per_gpu,
            result.execution.compile,
            result.execution.decoder,
            f"; images/s tried: {tried}" if tried else "",
        )
    return result


def _read_results(file: Path) -> dict[str, Any]:
    """Results of earlier trials by GPU; none if the file is damaged, for trials can be repeated."""
    try:
        results: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return results


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
    steps: int = STEPS,
    time_budget: float = TIME_BUDGET,
) -> AutotuneResult:
    """Find by trials the execution settings that are None, with one micro-batch a step; see `autotune`.

    Args:
        recipe: what is to be trained.
        split: training images for the trials of decoders.
        world: all processes; trials run in this process alone.
        batch_per_gpu: images that fit at a time.
        compile: torch.compile mode of the network.
        decoder: device that decodes JPEGs.
        steps: timed steps of a trial, at most.
        time_budget: seconds for each setting, after which no further trial begins.

    Raises: DataError if the images cannot be read; RuntimeError with the last reason if no trial succeeds.
    """
    throughputs: dict[str, float] = {}

    def fastest(names: Iterable[T], throughput: Callable[[T], float]) -> T:
        end = time.monotonic() + time_budget
        measured: dict[T, float] = {}
        failed: Exception | None = None
        for name in names:
            if measured and time.monotonic() > end:
                break
            try:
                measured[name] = throughput(name)
            except DataError:
                raise
            # Compilers and decoders raise anything; a setting that fails here is not chosen.
            except Exception as error:
                if world.is_main:
                    logger.warning("%s does not run here (%s)", name, _first_line(error))
                failed = RuntimeError(_first_line(error))  # without traceback, which holds the trial's memory
        if not measured:
            raise failed or RuntimeError("there was nothing to try")
        throughputs.update((str(name), number) for name, number in measured.items())
        return max(measured, key=lambda name: measured[name])

    def compiled(mode: CompileMode) -> float:
        _clear(world.device)
        execution = Execution(compile=mode)
        batches = itertools.repeat(fixed_batch(small, alone))
        return Trial(small, alone, execution).run(batches, steps=steps, seconds=SECONDS).images_per_second

    def fastest_decoder(mode: CompileMode) -> Decoder:
        _clear(world.device)
        # One network for all decoders, compiled before the clock starts: that may take longer than all trials.
        network = Trial(
            small, alone, Execution(compile=mode), classes=max(CLASSES, int(split.labels.max()) + 1)
        )
        network.run(itertools.repeat(fixed_batch(small, alone)), steps=1, warm_up=1)

        def fed(decoder: Decoder) -> float:
            gc.collect()  # frees the pipeline of the last trial, a reference cycle
            images = TrainLoader(split, small, alone, Execution(decoder=decoder))
            batches = images.batches(first_step=0, last_step=2**40)
            return network.run(batches, steps=steps, seconds=SECONDS).images_per_second

        return fastest(DECODERS, fed)

    recipe = recipe.at_full_res()
    size = batch_per_gpu or find_batch_size(recipe, world)
    alone, accumulated = World(0, 1, world.device), recipe.accumulation_steps(world.size, size)
    small = dataclasses.replace(recipe, global_batch=recipe.micro_batch(world.size, size))
    if compile is None:
        # CUDA graphs cannot accumulate gradients; with DistributedDataParallel they are untested here.
        modes = COMPILE_MODES if accumulated == world.size == 1 else COMPILE_MODES[:-1]
        if recipe.sync_batch_norm and world.size > 1:
            # A trial has no other processes, and SyncBatchNorm breaks the compiled graph at each layer.
            modes = COMPILE_MODES[:1]
        compile = fastest(modes, compiled)
    decoder = decoder or fastest_decoder(compile)
    _clear(world.device)
    return AutotuneResult(Execution(batch_per_gpu=size, compile=compile, decoder=decoder), throughputs)


def find_batch_size(recipe: Recipe, world: World) -> int:
    """Largest micro-batch, up to 256 images, that fits into this GPU's memory, found by training two steps of it."""
    share = recipe.global_batch // world.size
    sizes = [share // steps for steps in range(1, share + 1) if share % steps == 0]
    alone = World(0, 1, world.device)
    failed = ""
    for size in [size for size in sizes if size <= MAX_BATCH]:
        small = dataclasses.replace(recipe, global_batch=size)
        _clear(world.device)
        try:
            Trial(small, alone).run(itertools.repeat(fixed_batch(small, alone)), steps=1, warm_up=1)
        # OutOfMemoryError is a RuntimeError. Without memory cuDNN raises another: "unable to find an engine".
        except RuntimeError as error:
            failed = _first_line(error)
            continue
        if size == 1 or world.device.type != "cuda" or _memory_left(world.device):
            _clear(world.device)
            return size
    raise RuntimeError(f"not even one image at a time can be trained: {failed}")


def _clear(device: torch.device) -> None:
    """Free compiled code of the last trial, and the memory that torch keeps of the GPU's."""
    if "torch._dynamo" in sys.modules:  # else nothing was compiled, and it is slow to import
        torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _memory_left(device: torch.device) -> bool:
    _, total = torch.cuda.mem_get_info(device)
    return torch.cuda.max_memory_reserved(device) <= MAX_MEMORY_SHARE * total


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]
