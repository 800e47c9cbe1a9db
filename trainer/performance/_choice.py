"""What runs fastest on this GPU, found out before a run by trying it."""

from __future__ import annotations

import dataclasses
import itertools
import json
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
from trainer.performance._trial import Trials, fixed_batch
from trainer.world import World

PATIENCE = 60.0  # seconds that all trials take; what has begun is ended
STEPS = 20  # timed in each
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
    device = torch.cuda.get_device_name(world.device)
    kept = folder / REMEMBERED
    known: dict[str, Any] = world.from_first(lambda: json.loads(kept.read_text()) if kept.exists() else {})
    asked = {"batch_per_gpu": recipe.batch_per_gpu, "speed": recipe.speed, "decode_on": decode_on}
    if device in known and known[device]["asked"] == asked:
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
    """Try what the recipe leaves open; see `choose`."""
    end = time.monotonic() + patience
    tried: dict[str, float] = {}

    def fastest(names: Iterable[T], rate: Callable[[T], float]) -> T:
        rates: dict[T, float] = {}
        for name in names:
            if rates and time.monotonic() > end:
                break
            try:
                rates[name] = rate(name)
            # Whatever a compiler or decoder raises: what does not run here is not chosen.
            except Exception as error:
                tell(f"{name} does not run here ({_first_line(error)})")
            if world.device.type == "cuda":
                torch.cuda.empty_cache()
        tried.update((str(name), number) for name, number in rates.items())
        return max(rates, key=lambda name: rates[name])

    def as_run(speed: Speed) -> float:
        there = dataclasses.replace(recipe, speed=speed)
        batches = itertools.repeat(fixed_batch(there, world))
        return Trials(there, world).run(batches, steps=steps).images_per_second

    def as_fed(decoding: DecodeOn) -> float:
        images = TrainImages(split, recipe, world, decode_on=decoding)
        batches = images.batches(first_step=0, last_step=2**40)
        return Trials(recipe, world).run(batches, steps=steps).images_per_second

    if recipe.batch_per_gpu == "auto":
        recipe = dataclasses.replace(recipe, batch_per_gpu=largest_that_fits(recipe, world))
    if recipe.speed == "auto":
        recipe = dataclasses.replace(recipe, speed=fastest(SPEEDS, as_run))
    decode = decode_on or fastest(DECODES, as_fed)
    return dataclasses.replace(unmeasured(recipe, decode), tried=tried)


def largest_that_fits(recipe: Recipe, world: World) -> int:
    """Images of the largest micro-batch that this GPU trains, up to 256, found by training one step of it."""
    share = recipe.global_batch // world.size
    sizes = [share // parts for parts in range(1, share + 1) if share % parts == 0]
    for size in [size for size in sizes if size <= LARGEST]:
        there = dataclasses.replace(recipe, batch_per_gpu=size, speed="eager")
        try:
            if world.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats(world.device)
            Trials(there, world).run(itertools.repeat(fixed_batch(there, world)), steps=1, warm_up=1)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            continue
        if world.device.type != "cuda" or _room_left(world.device):
            return size
        torch.cuda.empty_cache()
    return 1


def _room_left(device: torch.device) -> bool:
    _, total = torch.cuda.mem_get_info(device)
    return torch.cuda.max_memory_reserved(device) <= FULL * total


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error).strip() else ''}"[:200]
