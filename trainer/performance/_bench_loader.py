"""Throughput of making training batches, beside other ways to make them."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import os
import time
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import psutil

from trainer.config import Execution, Recipe
from trainer.dataloader import Batch, TrainLoader
from trainer.dataset import Resize, Split, folder, open_dataset, prepare
from trainer.distributed import World
from trainer.errors import ConfigError
from trainer.performance._baselines import BASELINES, CORES, Baseline
from trainer.performance._environment import Environment, environment
from trainer.performance._rounds import median_ratio, rotate

WARM_UP = 5  # batches before the clock starts: pipelines are built, queues fill
ENDLESS = 2**40  # steps
OURS = "trainer"


@dataclass(frozen=True)
class LoaderThroughput:
    """Throughput of one loader."""

    images_per_second: float  # by wall clock
    images_per_cpu_second: float  # by processor time of this process and its children


@dataclass(frozen=True)
class LoaderRatio:
    """Throughput of our loader divided by another's, median over the rounds."""

    images_per_second: float
    images_per_cpu_second: float


@dataclass(frozen=True)
class LoaderBench:
    """Result of `bench_loader`. Dictionaries are by the loader's name."""

    images: int  # distinct files
    images_per_round: int
    rounds: int
    global_batch: int
    train_size: int  # pixels
    cold: bool
    threads: int  # of DALI, and workers of others
    by_round: dict[str, list[LoaderThroughput]]
    median: dict[str, LoaderThroughput]
    ratio: dict[str, LoaderRatio]  # of ours to each other loader
    environment: Environment


def _ours(split: Split, recipe: Recipe, world: World, number: int, scratch: Path) -> Iterator[Batch]:
    images = TrainLoader(split, dataclasses.replace(recipe, seed=recipe.seed + number), world)
    return images.batches(first_step=0, last_step=ENDLESS)


def _other_seed(split: Split, recipe: Recipe, world: World, number: int, scratch: Path) -> Iterator[Batch]:
    """Ours with another seed: how far a ratio is from 1 by noise alone."""
    return _ours(split, recipe, world, 1_000_000 + number, scratch)


def _decode_only(split: Split, recipe: Recipe, world: World, number: int, scratch: Path) -> Iterator[Any]:
    """Ours without resize and normalisation: the CPU's work where a GPU does the rest."""
    seeded = dataclasses.replace(recipe, seed=recipe.seed + number)
    return TrainLoader(split, seeded, world, Execution(decoder="cpu")).crops(first_step=0, last_step=ENDLESS)


def _stored_smaller(shorter_side: int) -> Baseline:
    """Ours, with the same photos as `trainer prepare --shorter-side` stores them."""

    def batches(split: Split, recipe: Recipe, world: World, number: int, scratch: Path) -> Iterator[Batch]:
        root = scratch / f"shorter-side-{shorter_side}"
        if not root.exists():
            links = scratch / f"originals-{shorter_side}"
            for name, rows in (("train", split.rows), ("val", split.rows[:1])):
                (links / name / "photos").mkdir(parents=True)
                for index in range(len(rows)):
                    (links / name / "photos" / f"{index:07d}.jpeg").symlink_to(split.path(index).resolve())
            prepare(folder(links, out=root), root, resize=Resize(shorter_side))
        return _ours(open_dataset(root).train, recipe, world, number, scratch)

    return batches


def bench_loader(
    split: Split,
    recipe: Recipe,
    world: World,
    scratch: Path,
    *,
    images: int,
    rounds: int,
    baselines: Mapping[str, Baseline] = BASELINES,
    cold: bool = False,
    shorter_side: Sequence[int] = (),
    only: Collection[str] = (),
) -> LoaderBench:
    """Make training batches and throw them away: with our loader, with variants of it, and with each baseline.

    Every loader is measured once a round, in rotation, with as many threads or workers as there are cores, and with
    other random crops in each round.

    Args:
        split: JPEGs; of a large split, `images` evenly spaced ones are used, so that they fit into memory.
        recipe: batch size, crops and seed.
        world: one process and its device.
        scratch: an empty folder for the storage formats of baselines.
        images: timed images per loader and round, after some batches of warm-up.
        rounds: number of rounds.
        baselines: loaders to compare with.
        cold: whether files are dropped from the page cache before each measurement.
        shorter_side: sizes in pixels; ours is also measured with photos stored so by `prepare --shorter-side`.
        only: names of the loaders to compare with; empty: all.

    Raises: ConfigError if `only` names an unknown loader, or if the batch is larger than the split.
    """
    if len(split) > images:
        split = split.take(np.linspace(0, len(split) - 1, images).astype(np.int64))
    steps = -(-images // recipe.global_batch)
    loaders: dict[str, Baseline] = {
        OURS: _ours,
        "trainer_other_seed": _other_seed,
        "trainer_decode_only": _decode_only,
        **baselines,
    }
    if unknown := set(only) - set(loaders):
        others = ", ".join(name for name in loaders if name != OURS)
        raise ConfigError(f"--only {min(unknown)}: there is no such loader here; there are {others}")
    loaders = {name: loader for name, loader in loaders.items() if not only or name in {OURS, *only}}
    loaders |= {f"trainer_shorter_side_{side}": _stored_smaller(side) for side in shorter_side}
    by_round: dict[str, list[LoaderThroughput]] = {name: [] for name in loaders}
    for path in _paths(split) if not cold else ():
        path.read_bytes()
    for number, name in rotate(loaders, rounds):
        wall, cpu = _timed(
            loaders[name](split, recipe, world, number, scratch),
            steps,
            evict=itertools.chain(_paths(split), _files(scratch)) if cold else (),
        )
        timed = steps * recipe.global_batch
        by_round[name].append(LoaderThroughput(timed / wall, timed / cpu))
    return LoaderBench(
        images=len(split),
        images_per_round=steps * recipe.global_batch,
        rounds=rounds,
        global_batch=recipe.global_batch,
        train_size=recipe.preprocess.train_size,
        cold=cold,
        threads=CORES,
        by_round=by_round,
        median={name: _median(measured) for name, measured in by_round.items()},
        ratio={name: _ratio(by_round[OURS], measured) for name, measured in by_round.items() if name != OURS},
        environment=environment(world.device),
    )


def _median(measured: Sequence[LoaderThroughput]) -> LoaderThroughput:
    return LoaderThroughput(
        images_per_second=median(one.images_per_second for one in measured),
        images_per_cpu_second=median(one.images_per_cpu_second for one in measured),
    )


def _ratio(ours: Sequence[LoaderThroughput], others: Sequence[LoaderThroughput]) -> LoaderRatio:
    return LoaderRatio(
        images_per_second=median_ratio(
            (one.images_per_second for one in ours), (one.images_per_second for one in others)
        ),
        images_per_cpu_second=median_ratio(
            (one.images_per_cpu_second for one in ours), (one.images_per_cpu_second for one in others)
        ),
    )


def _timed(batches: Iterator[Any], steps: int, *, evict: Iterable[Path]) -> tuple[float, float]:
    """Wall-clock and processor seconds of `steps` batches, after the warm-up."""
    next(batches)
    _evict(evict)
    for _ in itertools.islice(batches, WARM_UP - 1):
        pass
    begun, cpu = time.perf_counter(), cpu_seconds()
    for _ in itertools.islice(batches, steps):
        pass
    spent = time.perf_counter() - begun, cpu_seconds() - cpu
    del batches
    gc.collect()  # ends a pipeline's threads and a loader's workers now, not while another loader is timed
    return spent


def cpu_seconds() -> float:
    """Processor time of this process and of its living descendants."""
    seconds = time.process_time()
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            times = child.cpu_times()
            seconds += times.user + times.system
    return seconds


def _paths(split: Split) -> Iterator[Path]:
    return (split.path(index) for index in range(len(split)))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _evict(files: Iterable[Path]) -> None:
    """Drop these files from the page cache."""
    os.sync()  # pages that are not on the disk yet cannot be dropped
    for path in files:
        file = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)
