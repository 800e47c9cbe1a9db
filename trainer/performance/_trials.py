"""Trials of execution settings on this machine: which batch size, compile mode and decoder is fastest."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import logging
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from trainer.config import CompileMode, Decoder, Execution, Recipe
from trainer.dataloader import TrainLoader
from trainer.dataset import Split
from trainer.distributed import World
from trainer.errors import DataError, first_line
from trainer.performance._memory import hopeless, leave_reserve
from trainer.performance._trial import CLASSES, WARM_UP, Trial, fixed_batch
from trainer.training import make_loader

TIME_BUDGET = 30.0  # seconds for each setting: no further trial begins after it, a running one is finished
STEPS = 20  # timed steps of a trial, …
SECONDS = 4.0  # … or fewer, if they take longer than this
MAX_BATCH = 512  # images; what is published trains with no more of them at a time
LARGE_BATCH = 256  # images; above it, half as many may be as fast, and are tried too
COMPILE_MODES: tuple[CompileMode, ...] = ("off", "default", "cudagraphs")
DECODERS: tuple[Decoder, ...] = ("mixed", "cpu", "mixed-huffman")
AHEAD = 8  # batches whose files a loader has read when it gives its first batch, at most
READERS = 16  # threads that read the files of a trial before it begins, …
READ_SECONDS = 20.0  # … for so long at most

logger = logging.getLogger(__name__)

T = TypeVar("T")
Timed = Callable[[], float]  # trains for some seconds and gives images/s of all processes together


class Trials:
    """Timed trials, in the same order on all processes: each step is a step of all of them."""

    def __init__(self, recipe: Recipe, split: Split, world: World, *, steps: int, time_budget: float) -> None:
        """Plan no trial yet.

        Args:
            recipe: what is to be trained, at its full size.
            split: training images for the trials of decoders.
            world: all processes.
            steps: timed steps of a trial, at most.
            time_budget: seconds for each setting, after which no further trial begins.
        """
        self.throughputs: dict[str, float] = {}  # images/s of all processes together, by setting tried
        self._recipe, self._split, self._world = recipe, split, world
        self._steps, self._time_budget = steps, time_budget

    def eager(self, size: int) -> float:
        """Images/s without torch.compile, with `size` images at a time."""
        of_size = self.throughputs.get(f"{size} images")  # `fastest_size` has measured it
        self.throughputs["off"] = of_size or self._prepare(size, "off")()
        return self.throughputs["off"]

    def fastest_size(self, max_batch: int) -> int:
        """The largest micro-batch that fits, or half of it if that is faster."""
        mine = find_batch_size(self._recipe, self._world, max_batch)
        largest: int = self._world.broadcast_from_rank0(lambda: mine)
        sizes = [largest, *(size for size in _sizes(self._recipe, self._world) if size <= largest // 2)]
        if largest <= LARGE_BATCH or len(sizes) == 1:
            return largest
        return self._fastest(
            {f"{size} images": size for size in sizes[:2]}, lambda size: self._prepare(size, "off")
        )

    def fastest_compile_mode(self, size: int) -> CompileMode:
        """The fastest of torch.compile's modes on a synthetic batch; `eager` has measured "off"."""
        if self._recipe.sync_batch_norm and self._world.size > 1:
            return "off"  # it breaks the compiled graph at each layer, and compiling the pieces takes minutes
        # CUDA graphs cannot accumulate gradients; with DistributedDataParallel they are untested here.
        graphs = self._recipe.accumulation_steps(self._world.size, size) == self._world.size == 1
        modes = COMPILE_MODES if graphs else COMPILE_MODES[:-1]
        return self._fastest(
            {mode: mode for mode in modes},
            lambda mode: (lambda: self.throughputs["off"]) if mode == "off" else self._prepare(size, mode),
        )

    def fastest_decoder(self, size: int, mode: CompileMode) -> Decoder:
        """The decoder that feeds a network, compiled in this mode, fastest."""
        _clear(self._world.device)
        recipe, steps = self._one_step(size), self._steps + WARM_UP
        classes = max(CLASSES, int(self._split.labels.max()) + 1)
        # One network for all decoders, compiled before the clock starts: that may take longer than all trials.
        network = Trial(recipe, self._world, Execution(compile=mode), classes=classes)
        network.run(itertools.repeat(fixed_batch(recipe, self._world)), steps=1, warm_up=1)
        # All decoders are given the same files. The first must not wait for the disk in place of all.
        read_files(make_loader(self._split, recipe, self._world, Execution()), self._split, steps + AHEAD)

        def prepare(decoder: Decoder) -> Timed:
            gc.collect()  # frees the pipeline of the last trial, a reference cycle
            images = make_loader(self._split, recipe, self._world, Execution(decoder=decoder))
            batches = images.batches(first_step=0, last_step=2**40)
            first = next(batches)
            source = itertools.chain([first], batches)
            return lambda: network.run(source, steps=self._steps, seconds=SECONDS).images_per_second

        return self._fastest({decoder: decoder for decoder in DECODERS}, prepare)

    def _one_step(self, size: int) -> Recipe:
        """The recipe with one micro-batch of `size` images a step on each process."""
        return dataclasses.replace(self._recipe, global_batch=size * self._world.size)

    def _prepare(self, size: int, mode: CompileMode) -> Timed:
        """Training on a synthetic batch, ready to be timed."""
        _clear(self._world.device)
        leave_reserve(self._recipe, size, self._world)
        recipe = self._one_step(size)
        batch = fixed_batch(recipe, self._world)
        trial = Trial(recipe, self._world, Execution(compile=mode))
        trial.rehearse(batch)
        source = itertools.repeat(batch)
        return lambda: trial.run(source, steps=self._steps, seconds=SECONDS).images_per_second

    def _fastest(self, settings: dict[str, T], prepare: Callable[[T], Timed]) -> T:
        """The setting with the highest throughput; one that fails is left out with a warning.

        Whatever may fail in one process only belongs into `prepare`: then none of them begins to train with it.
        """
        end = time.monotonic() + self._time_budget
        measured: dict[str, float] = {}
        failed: Exception | None = None
        for name, setting in settings.items():
            too_late: bool = self._world.broadcast_from_rank0(lambda: time.monotonic() > end)
            if measured and too_late:
                break
            timed: Timed | None = None
            try:
                timed = prepare(setting)
            except DataError:
                raise
            # Compilers and decoders raise anything; a setting that fails here is not chosen.
            except Exception as error:
                failed = RuntimeError(first_line(error))  # without traceback, which holds the trial's memory
            if self._world.any(timed is None)[0] or timed is None:
                failed = failed or RuntimeError("it fails in another process")
                if self._world.is_main:
                    logger.warning("%s does not run here (%s)", name, failed)
                continue
            measured[name] = timed()
        if not measured:
            raise failed or RuntimeError("there was nothing to try")
        self.throughputs.update(measured)
        best = max(measured, key=lambda name: measured[name])
        return settings[self._world.broadcast_from_rank0(lambda: best)]


def find_batch_size(recipe: Recipe, world: World, max_batch: int = MAX_BATCH) -> int:
    """Largest micro-batch that fits into this GPU's memory beside DALI, found by training two steps of it.

    Args:
        recipe: what is to be trained, at its full size.
        world: all processes; this one tries for itself.
        max_batch: images at a time, at most.

    Raises: RuntimeError if not even one image at a time can be trained.
    """
    alone = World(0, 1, world.device)
    failed = ""
    for size in _sizes(recipe, world):
        if size > max_batch or (size > 1 and hopeless(recipe, size, world)):
            continue
        small = dataclasses.replace(recipe, global_batch=size)
        _clear(world.device)
        leave_reserve(recipe, size, world)
        try:
            Trial(small, alone).run(itertools.repeat(fixed_batch(small, alone)), steps=1, warm_up=1)
        # OutOfMemoryError is a RuntimeError. Without memory cuDNN raises another: "unable to find an engine".
        except RuntimeError as error:
            failed = first_line(error)
            continue
        _clear(world.device)
        return size
    raise RuntimeError(f"not even one image at a time can be trained: {failed}")


def read_files(loader: TrainLoader, split: Split, steps: int, seconds: float = READ_SECONDS) -> None:
    """Have the files of this process's first `steps` batches in the page cache, or those read within `seconds`."""
    end = time.monotonic() + seconds

    def read(index: int) -> None:
        if time.monotonic() < end:
            split.path(index).read_bytes()

    indices: Iterable[int] = itertools.chain.from_iterable(
        loader.indices(step, 0).tolist() for step in range(steps)
    )
    with ThreadPoolExecutor(READERS) as threads:
        for done in threads.map(read, indices):
            assert done is None


def _sizes(recipe: Recipe, world: World) -> list[int]:
    """Micro-batches that share a process's part of the global batch evenly, largest first."""
    share = recipe.global_batch // world.size
    return [share // steps for steps in range(1, share + 1) if share % steps == 0]


def _clear(device: torch.device) -> None:
    """Free compiled code of the last trial, and the memory that torch keeps of the GPU's."""
    if "torch._dynamo" in sys.modules:  # else nothing was compiled, and it is slow to import
        torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
