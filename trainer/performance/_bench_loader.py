"""How fast training batches are made, against other ways to make them."""

from __future__ import annotations

import dataclasses
import gc
import itertools
import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

from trainer.config import Recipe
from trainer.dataloader import Batch, TrainLoader, dali_version
from trainer.dataset import Resize, Split, folder, open_dataset, prepare
from trainer.distributed import World
from trainer.errors import ConfigError
from trainer.performance._bench_train import where
from trainer.performance._peers import CORES, Contender, peers
from trainer.performance._rounds import in_rotation, ratio

WARM_UP = 5  # batches before the clock starts: graphs are built, queues fill
OURS = "trainer"
TICKS = os.sysconf("SC_CLK_TCK")


def _trainer(split: Split, recipe: Recipe, world: World, turn: int, scratch: Path) -> Iterator[Batch]:
    images = TrainLoader(split, dataclasses.replace(recipe, seed=recipe.seed + turn), world)
    return images.batches(first_step=0, last_step=2**40)


def _trainer_again(split: Split, recipe: Recipe, world: World, turn: int, scratch: Path) -> Iterator[Batch]:
    """The same with another seed: what chance makes of the ratio."""
    return _trainer(split, recipe, world, 1_000_000 + turn, scratch)


def _trainer_decoding(split: Split, recipe: Recipe, world: World, turn: int, scratch: Path) -> Iterator[Any]:
    """What is left to the processors where a GPU resizes and normalises: reading and decoding."""
    images = TrainLoader(split, dataclasses.replace(recipe, seed=recipe.seed + turn), world, decoder="cpu")
    return images.crops(first_step=0, last_step=2**40)


def _smaller(shorter_side: int) -> Contender:
    """Ours, on the same photos as `prepare --shorter-side` stores them."""

    def batches(split: Split, recipe: Recipe, world: World, turn: int, scratch: Path) -> Iterator[Batch]:
        root = scratch / f"smaller-{shorter_side}"
        if not root.exists():
            links = scratch / f"originals-{shorter_side}"
            for part, rows in (("train", split.rows), ("val", split.rows[:1])):
                (links / part / "photos").mkdir(parents=True)
                for index in range(len(rows)):
                    (links / part / "photos" / f"{index:07d}.jpeg").symlink_to(split.path(index).resolve())
            prepare(folder(links, out=root), root, resize=Resize(shorter_side))
        return _trainer(open_dataset(root).train, recipe, world, turn, scratch)

    return batches


def bench_loader(
    split: Split,
    recipe: Recipe,
    world: World,
    scratch: Path,
    *,
    images: int,
    rounds: int,
    cold: bool = False,
    shorter_side: Sequence[int] = (),
    only: Collection[str] = (),
) -> dict[str, Any]:
    """Make training batches and throw them away: ours, and each other contender.

    They take turns in another order each round, each with as many threads or workers as processors.
    A contender that depends on chance draws other crops each round.

    Args:
        split: JPEGs; of a large one, `images` of all parts are used, so that they fit into memory.
        recipe: batch, crops and seed.
        world: one process and its device.
        scratch: an empty folder for the forms that contenders need.
        images: timed in each turn, after a few batches for warming up.
        rounds: turns of each contender.
        cold: let the system forget the files before each turn.
        shorter_side: ours also takes part on the photos as `prepare --shorter-side` stores them, for each of these.
        only: names of the others that take part; empty: all that can run here.

    Returns: images/s and images per second of processor time (this process and its children) of each
        turn, their medians, and how many times as fast as each other contender ours is: the median
        over rounds, since neighbours in time share the machine's mood.
    """
    if len(split) > images:
        split = Split(split.root, split.rows[np.linspace(0, len(split) - 1, images).astype(np.int64)])
    steps = -(-images // recipe.global_batch)
    contenders: dict[str, Contender] = {
        OURS: _trainer,
        "trainer_again": _trainer_again,
        "trainer_decoding": _trainer_decoding,
        **peers(),
    }
    if unknown := set(only) - set(contenders):
        raise ConfigError(
            f"--only {min(unknown)}: there is no such contender here; there are {', '.join(list(contenders)[1:])}"
        )
    contenders = {name: one for name, one in contenders.items() if not only or name in {OURS, *only}}
    contenders |= {f"trainer_max_side_{side}": _smaller(side) for side in shorter_side}
    turns: dict[str, dict[str, list[float]]] = {
        name: {"images_per_second": [], "images_per_cpu_second": []} for name in contenders
    }
    for path in _paths(split) if not cold else ():
        path.read_bytes()
    for turn, name in in_rotation(contenders, rounds):
        wall, cpu = _timed(
            contenders[name](split, recipe, world, turn, scratch),
            steps,
            forget=itertools.chain(_paths(split), _files(scratch)) if cold else (),
        )
        turns[name]["images_per_second"].append(steps * recipe.global_batch / wall)
        turns[name]["images_per_cpu_second"].append(steps * recipe.global_batch / cpu)
    ours = turns[OURS]
    return {
        "images": len(split),
        "images_each_turn": steps * recipe.global_batch,
        "rounds": rounds,
        "batch": recipe.global_batch,
        "train_size": recipe.images.train_size,
        "cold": cold,
        "threads": CORES,
        "turns": turns,
        **{measure: {name: median(all_[measure]) for name, all_ in turns.items()} for measure in ours},
        "ours_to": {
            name: {measure: ratio(ours[measure], theirs[measure]) for measure in ours}
            for name, theirs in turns.items()
            if name != OURS
        },
        "dali": dali_version(),
        **where(world),
    }


def _timed(batches: Iterator[Any], steps: int, *, forget: Iterable[Path]) -> tuple[float, float]:
    """Wall and processor seconds that `steps` batches take."""
    next(batches)
    _forget(forget)
    for _ in itertools.islice(batches, WARM_UP - 1):
        pass
    begun, cpu = time.perf_counter(), cpu_seconds()
    for _ in itertools.islice(batches, steps):
        pass
    spent = time.perf_counter() - begun, cpu_seconds() - cpu
    del batches
    gc.collect()  # a graph's threads and a loader's workers end with it, not in somebody else's turn
    return spent


def cpu_seconds() -> float:
    """Processor time of this process and of all that it started and that still run."""
    return time.process_time() + sum(_cpu_of(child) for child in _children(os.getpid()))


def _children(process: int) -> Iterator[int]:
    for task in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(OSError):
            for child in map(int, task.read_text().split()):
                yield child
                yield from _children(child)


def _cpu_of(process: int) -> float:
    with suppress(OSError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS  # utime, stime; see proc(5)
    return 0.0


def _paths(split: Split) -> Iterator[Path]:
    return (split.path(index) for index in range(len(split)))


def _files(folder: Path) -> Iterator[Path]:
    return (path for path in folder.rglob("*") if path.is_file())


def _forget(files: Iterable[Path]) -> None:
    """Let the system drop these files from memory."""
    os.sync()  # what is not on the disk yet cannot be forgotten
    for path in files:
        file = os.open(path, os.O_RDONLY)
        try:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)
