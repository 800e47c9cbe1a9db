"""What runs fastest on this GPU, found out before a run by trying it."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch

from trainer.config import Recipe, Speed
from trainer.data import DecodeOn, TrainImages
from trainer.dataset import Split
from trainer.disk import write_json
from trainer.errors import DataError
from trainer.performance._trial import CLASSES, Trials, fixed_batch
from trainer.world import World

PATIENCE = 30.0  # seconds for each question; what has begun is ended, a compilation too
STEPS = 20  # timed in each trial at most, and …
SECONDS = 4.0  # … for so long at least
LARGEST = 256  # images; larger micro-batches are not faster, and leave less room for the decoder
FULL = 0.85  # share of the GPU's memory that torch may take; decoding takes some too
ON_THE_CPU = 64  # images at a time, where nothing is measured
REMEMBERED = "speed.json"
SPEEDS: tuple[Speed, ...] = ("eager", "compile", "graphs")
DECODES: tuple[DecodeOn, ...] = ("mixed", "cpu", "mixed-huffman")


T = TypeVar("T", Speed, DecodeOn)


@dataclass(frozen=True)
class Choice:
    """How a run is driven on one kind of device."""

    batch_per_gpu: int
    speed: Speed
    decode_on: DecodeOn
    tried: dict[str, float] = field(default_factory=dict)  # images/s of one process, by what was tried

    def of(self, recipe: Recipe) -> Recipe:
        """The recipe, driven this way."""
        return dataclasses.replace(recipe, batch_per_gpu=self.batch_per_gpu, speed=self.speed)


def choose(
    recipe: Recipe,
    split: Split,
    world: World,
    folder: Path,
    *,
    decode_on: DecodeOn | None,
    tell: Callable[[str], None],
) -> Choice:
    """How to drive `recipe` here: as it says, and where it leaves that open, as trials show.

    On the CPU nothing is tried. On a GPU the images that fit at a time are found first, then how the network runs
    fastest on images that are there already, then which decoding feeds it best. The verdict is the first
    process's; it is kept in the run's folder for each kind of GPU, so a run that goes on is not measured again.

    Args:
        recipe: what is to be trained.
        split: the training images.
        world: all processes; each tries at the same time, as they will train.
        folder: of the run.
        decode_on: where JPEGs are decoded; None: try.
        tell: takes a sentence about the outcome.
    """
    if world.device.type != "cuda":
        return unmeasured(recipe, decode_on)
    kept = folder / REMEMBERED
    device, known = world.from_first(lambda: (torch.cuda.get_device_name(world.device), _remembered(kept)))
    asked = {
        "batch_per_gpu": recipe.batch_per_gpu,
        "speed": recipe.speed,
        "decode_on": decode_on,
        "processes": world.size,
        "cpu_cores": len(os.sched_getaffinity(0)),
    }
    if device in known and known[device].get("asked") == asked:
        return Choice(**known[device]["choice"])
    mine = measure(recipe, split, world, decode_on=decode_on, tell=tell if world.first else lambda _: None)
    choice = world.from_first(lambda: mine)
    if world.first:
        write_json(
            kept,
            {
                **known,
                device: {"asked": asked, "choice": dataclasses.asdict(choice), "torch": torch.__version__},
            },
        )
        tried = ", ".join(f"{name} {rate:,.0f}" for name, rate in choice.tried.items())
        tell(
            f"{choice.batch_per_gpu} images at a time, {choice.speed}, decoded on {choice.decode_on}"
            + (f"; images/s tried: {tried}" if tried else "")
        )
    return choice


def _remembered(file: Path) -> dict[str, Any]:
    """What earlier trials have shown, by GPU; nothing if the file is damaged, for they can be made again."""
    try:
        known: dict[str, Any] = json.loads(file.read_text())
    except (OSError, ValueError):
        return {}
    return known


def unmeasured(recipe: Recipe, decode_on: DecodeOn | None) -> Choice:
    """What the recipe says, and the plainest where it leaves that open."""
    return Choice(
        ON_THE_CPU if recipe.batch_per_gpu == "auto" else recipe.batch_per_gpu,
        "eager" if recipe.speed == "auto" else recipe.speed,
        decode_on or "cpu",
    )


def measure(
    recipe: Recipe,
    split: Split,
    world: World,
    *,
    decode_on: DecodeOn | None,
    tell: Callable[[str], None],
    steps: int = STEPS,
    patience: float = PATIENCE,
) -> Choice:
    """Try what the recipe leaves open, on one micro-batch a step; see `choose`.

    Raises: DataError if the images cannot be read; RuntimeError with the last reason if nothing runs at all.
    """
    tried: dict[str, float] = {}

    def fastest(names: Iterable[T], rate: Callable[[T], float]) -> T:
        end = time.monotonic() + patience
        rates: dict[T, float] = {}
        failed: Exception | None = None
        for name in names:
            if rates and time.monotonic() > end:
                break
            try:
                rates[name] = rate(name)
            except DataError:
                raise
            # Whatever a compiler or decoder raises: what does not run here is not chosen.
            except Exception as error:
                tell(f"{name} does not run here ({_first_line(error)})")
                failed = RuntimeError(_first_line(error))  # its traceback would keep the trial's memory
        if not rates:
            raise failed or RuntimeError("nothing was tried")
        tried.update((str(name), number) for name, number in rates.items())
        return max(rates, key=lambda name: rates[name])

    def as_run(speed: Speed) -> float:
        _clear(world.device)
        there = dataclasses.replace(small, speed=speed)
        batches = itertools.repeat(fixed_batch(there, alone))
        return Trials(there, alone).run(batches, steps=steps, seconds=SECONDS).images_per_second

    def fastest_decoding() -> DecodeOn:
        _clear(world.device)
        # One network for all, compiled before the clock starts: that may take longer than all trials.
        network = Trials(small, alone, max(CLASSES, int(split.labels.max()) + 1))
        network.run(itertools.repeat(fixed_batch(small, alone)), steps=1, warm_up=1)

        def as_fed(decoding: DecodeOn) -> float:
            gc.collect()  # the graph of the trial before refers to itself
            images = TrainImages(split, small, alone, decode_on=decoding)
            batches = images.batches(first_step=0, last_step=2**40)
            return network.run(batches, steps=steps, seconds=SECONDS).images_per_second

        return fastest(DECODES, as_fed)

    recipe = recipe.at_full_size()
    if recipe.batch_per_gpu == "auto":
        recipe = dataclasses.replace(recipe, batch_per_gpu=largest_that_fits(recipe, world))
    alone, parts = World(0, 1, world.device), recipe.accumulation(world.size)
    small = dataclasses.replace(recipe, global_batch=recipe.micro_batch(world.size))
    if recipe.speed == "auto":
        # CUDA graphs take neither accumulated gradients nor, untried by us, those that processes exchange.
        speeds = SPEEDS if parts == world.size == 1 else SPEEDS[:-1]
        if recipe.sync_batch_norm and world.size > 1:
            speeds = SPEEDS[
                :1
            ]  # a trial has no other processes, and each such layer would break a compiled network
        recipe = dataclasses.replace(recipe, speed=fastest(speeds, as_run))
        small = dataclasses.replace(small, speed=recipe.speed)
    decode = decode_on or fastest_decoding()
    _clear(world.device)
    return dataclasses.replace(unmeasured(recipe, decode), tried=tried)


def largest_that_fits(recipe: Recipe, world: World) -> int:
    """Images of the largest micro-batch that this GPU trains, up to 256, found by training two steps of it."""
    share = recipe.global_batch // world.size
    sizes = [share // parts for parts in range(1, share + 1) if share % parts == 0]
    alone = World(0, 1, world.device)
    failed = ""
    for size in [size for size in sizes if size <= LARGEST]:
        there = dataclasses.replace(recipe, global_batch=size, batch_per_gpu=size, speed="eager")
        _clear(world.device)
        try:
            Trials(there, alone).run(itertools.repeat(fixed_batch(there, alone)), steps=1, warm_up=1)
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
