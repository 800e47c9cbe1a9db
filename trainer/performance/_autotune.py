"""What runs fastest on this GPU, found out before a run by trying it."""

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

SECONDS_EACH = 30.0  # for each question; what has begun is ended, a compilation too
STEPS = 20  # timed in each trial at most, and …
SECONDS = 4.0  # … for so long at least
LARGEST = 256  # images; larger micro-batches are not faster, and leave less room for the decoder
FULL = 0.85  # share of the GPU's memory that torch may take; decoding takes some too
ON_THE_CPU = 64  # images at a time, where nothing is measured
REMEMBERED = "autotune.json"
COMPILE_MODES: tuple[CompileMode, ...] = ("off", "default", "cudagraphs")
DECODERS: tuple[Decoder, ...] = ("mixed", "cpu", "mixed-huffman")

logger = logging.getLogger(__name__)

T = TypeVar("T", CompileMode, Decoder)


@dataclass(frozen=True)
class AutotuneResult:
    """How a run is executed on one kind of device, and why."""

    execution: Execution
    throughputs: dict[str, float] = field(default_factory=dict)  # images/s of one process, by what was tried


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
    """How to execute `recipe` here: as asked for, and what is None, as trials show.

    On the CPU nothing is tried. On a GPU the images that fit at a time are found first, then how the network runs
    fastest on images that are there already, then which decoder feeds it best. The verdict is the first
    process's; it is kept in the run's folder for each kind of GPU, so a run that goes on is not measured again.

    Args:
        recipe: what is to be trained.
        split: the training images.
        world: all processes; each tries at the same time, as they will train.
        folder: of the run.
        batch_per_gpu: images at a time.
        compile: how the network runs.
        decoder: where JPEGs are decoded.
    """
    if world.device.type != "cuda":
        return defaults(batch_per_gpu=batch_per_gpu, compile=compile, decoder=decoder)
    kept = folder / REMEMBERED
    device, known = world.broadcast_from_rank0(
        lambda: (torch.cuda.get_device_name(world.device), _remembered(kept))
    )
    asked = {
        "batch_per_gpu": batch_per_gpu,
        "compile": compile,
        "decoder": decoder,
        "processes": world.size,
        "cpu_cores": len(os.sched_getaffinity(0)),
    }
    if device in known and known[device].get("asked") == asked:
        return AutotuneResult(Execution(**known[device]["execution"]))
    mine = measure(recipe, split, world, batch_per_gpu=batch_per_gpu, compile=compile, decoder=decoder)
    result = world.broadcast_from_rank0(lambda: mine)
    if world.is_main:
        execution = dataclasses.asdict(result.execution)
        write_json(
            kept,
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


def _remembered(file: Path) -> dict[str, Any]:
    """What earlier trials have shown, by GPU; nothing if the file is damaged, for they can be made again."""
    try:
        known: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return known


def defaults(
    *,
    batch_per_gpu: int | None = None,
    compile: CompileMode | None = None,
    decoder: Decoder | None = None,
) -> AutotuneResult:
    """What is asked for, and the plainest of what is None."""
    return AutotuneResult(
        Execution(
            batch_per_gpu=batch_per_gpu or ON_THE_CPU, compile=compile or "off", decoder=decoder or "cpu"
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
    seconds_each: float = SECONDS_EACH,
) -> AutotuneResult:
    """Try what is None, on one micro-batch a step; see `autotune`.

    Raises: DataError if the images cannot be read; RuntimeError with the last reason if nothing runs at all.
    """
    throughputs: dict[str, float] = {}

    def fastest(names: Iterable[T], throughput: Callable[[T], float]) -> T:
        end = time.monotonic() + seconds_each
        measured: dict[T, float] = {}
        failed: Exception | None = None
        for name in names:
            if measured and time.monotonic() > end:
                break
            try:
                measured[name] = throughput(name)
            except DataError:
                raise
            # Whatever a compiler or decoder raises: what does not run here is not chosen.
            except Exception as error:
                if world.is_main:
                    logger.warning("%s does not run here (%s)", name, _first_line(error))
                failed = RuntimeError(_first_line(error))  # its traceback would keep the trial's memory
        if not measured:
            raise failed or RuntimeError("nothing was tried")
        throughputs.update((str(name), number) for name, number in measured.items())
        return max(measured, key=lambda name: measured[name])

    def compiled(mode: CompileMode) -> float:
        _clear(world.device)
        execution = Execution(compile=mode)
        batches = itertools.repeat(fixed_batch(small, alone))
        return Trial(small, alone, execution).run(batches, steps=steps, seconds=SECONDS).images_per_second

    def fastest_decoder(mode: CompileMode) -> Decoder:
        _clear(world.device)
        # One network for all, compiled before the clock starts: that may take longer than all trials.
        network = Trial(
            small, alone, Execution(compile=mode), classes=max(CLASSES, int(split.labels.max()) + 1)
        )
        network.run(itertools.repeat(fixed_batch(small, alone)), steps=1, warm_up=1)

        def fed(decoder: Decoder) -> float:
            gc.collect()  # the pipeline of the trial before refers to itself
            images = TrainLoader(split, small, alone, Execution(decoder=decoder))
            batches = images.batches(first_step=0, last_step=2**40)
            return network.run(batches, steps=steps, seconds=SECONDS).images_per_second

        return fastest(DECODERS, fed)

    recipe = recipe.at_full_res()
    size = batch_per_gpu or find_batch_size(recipe, world)
    alone, accumulated = World(0, 1, world.device), recipe.accumulation_steps(world.size, size)
    small = dataclasses.replace(recipe, global_batch=recipe.micro_batch(world.size, size))
    if compile is None:
        # CUDA graphs take neither accumulated gradients nor, untried by us, those that processes exchange.
        modes = COMPILE_MODES if accumulated == world.size == 1 else COMPILE_MODES[:-1]
        if recipe.sync_batch_norm and world.size > 1:
            # A trial has no other processes, and each such layer would break a compiled network.
            modes = COMPILE_MODES[:1]
        compile = fastest(modes, compiled)
    decoder = decoder or fastest_decoder(compile)
    _clear(world.device)
    return AutotuneResult(Execution(batch_per_gpu=size, compile=compile, decoder=decoder), throughputs)


def find_batch_size(recipe: Recipe, world: World) -> int:
    """Images of the largest micro-batch that this GPU trains, up to 256, found by training two steps of it."""
    share = recipe.global_batch // world.size
    sizes = [share // steps for steps in range(1, share + 1) if share % steps == 0]
    alone = World(0, 1, world.device)
    failed = ""
    for size in [size for size in sizes if size <= LARGEST]:
        small = dataclasses.replace(recipe, global_batch=size)
        _clear(world.device)
        try:
            Trial(small, alone).run(itertools.repeat(fixed_batch(small, alone)), steps=1, warm_up=1)
        # OutOfMemoryError is one. cuDNN's has another: without memory it is "unable to find an engine".
        except RuntimeError as error:
            failed = _first_line(error)
            continue
        if size == 1 or world.device.type != "cuda" or _room_left(world.device):
            _clear(world.device)
            return size
    raise RuntimeError(f"not even one image at a time can be trained: {failed}")


def _clear(device: torch.device) -> None:
    """Let go of what a trial has left: compiled code with its memory, and what torch keeps of the GPU's."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)


def _room_left(device: torch.device) -> bool:
    _, total = torch.cuda.mem_get_info(device)
    return torch.cuda.max_memory_reserved(device) <= FULL * total


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]
