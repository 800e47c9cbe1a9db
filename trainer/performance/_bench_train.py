"""Timed training: the device alone, fed with real JPEGs, the feeding alone, and the loop people write."""

from __future__ import annotations

import dataclasses
import itertools
import os
import platform
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from trainer import metrics
from trainer.config import Recipe
from trainer.dataloader import Batch, Decoder, TrainLoader, ValLoader
from trainer.dataset import Dataset, Split
from trainer.distributed import World
from trainer.model import build
from trainer.performance._estimate import IMAGENET, MEGABYTES_AT_224
from trainer.performance._rounds import in_rotation, ratio
from trainer.performance._trial import CLASSES, RATE, WARM_UP, Trial, Trials, fixed_batch
from trainer.tracking import DatasetInfo, Journal, RunInfo
from trainer.training import VAL_BATCH, choose_precision, train

PROFILED = 5  # steps


def bench_train(
    recipe: Recipe,
    split: Split,
    world: World,
    *,
    steps: int,
    rounds: int,
    decoder: Decoder,
    profile: Path | None = None,
) -> dict[str, Any]:
    """Train on images that are on the device already, on JPEGs, feed without training, train as people do, validate.

    The five take turns, `rounds` times in rotation, so that all meet the machine in the same moods.

    Args:
        recipe: what to train; how many images at a time and how the network runs must be settled.
        split: JPEGs, used again and again.
        world: one process and its device.
        steps: timed steps of each turn, after a few for warming up.
        rounds: turns of each.
        decoder: where JPEGs are decoded.
        profile: write a Chrome trace of five fed steps there.

    Returns: medians of images/s, their ratios, the share of ImageNet's epoch that its validation takes at these rates,
        the share of time spent waiting for data, milliseconds of a step by phase, what share of the device's own arithmetic and memory speed that is, and where this was measured.
    """
    ours = Trials(recipe, world, max(CLASSES, int(split.labels.max()) + 1))
    fixed = fixed_batch(recipe, world)
    plain = _Plain(recipe, world)
    turns: dict[str, list[float]] = {
        name: [] for name in ("synthetic", "real", "loader", "plain", "validation")
    }
    fed: list[Trial] = []

    def batches(count: int) -> Iterator[Batch]:
        source = TrainLoader(_enough(split, count * recipe.global_batch), recipe, world, decoder=decoder)
        return source.batches(first_step=0, last_step=count)

    def synthetic() -> float:
        return ours.run(itertools.repeat(fixed), steps=steps).images_per_second

    def real() -> float:
        fed.append(ours.run(batches(WARM_UP + steps), steps=steps))
        return fed[-1].images_per_second

    def loader() -> float:
        source, images = batches(WARM_UP + steps), 0
        for _ in itertools.islice(source, WARM_UP):
            pass
        begun = time.perf_counter()
        for batch in source:
            images += len(batch.labels)
        return images / (time.perf_counter() - begun)

    # Forward passes are three times as fast as steps.
    validated = ValLoader(
        _enough(split, 3 * steps * recipe.global_batch), recipe.images, world, batch=min(len(fixed.labels), VAL_BATCH), decoder=decoder
    )  # fmt: skip

    def validation() -> float:
        begun = time.perf_counter()
        return ours.evaluate(validated).images / (time.perf_counter() - begun)

    contenders: dict[str, Callable[[], float]] = {
        "synthetic": synthetic,
        "real": real,
        "loader": loader,
        "plain": lambda: plain.run(fixed, steps),
        "validation": validation,
    }
    for _, name in in_rotation(contenders, rounds):
        turns[name].append(contenders[name]())

    if profile:
        _profile(ours, batches(WARM_UP + PROFILED), profile)
    rates = {name: median(measured) for name, measured in turns.items()}
    seconds = IMAGENET[0] / rates["real"], IMAGENET[1] / rates["validation"]  # of an epoch
    return {
        "images_per_second": rates,
        "real_to_synthetic": ratio(turns["real"], turns["synthetic"]),
        "synthetic_to_plain": ratio(turns["synthetic"], turns["plain"]),
        "turns": turns,
        "validation_share": seconds[1] / sum(seconds),
        "data_wait_share": median(trial.data_wait_share for trial in fed),
        "step_ms": {name: median(trial.step_ms[name] for trial in fed) for name in fed[0].step_ms},
        **limits(recipe, world, rates["synthetic"]),
        "gpu_memory_gib": fed[-1].memory_gib,
        "steps": steps,
        "rounds": rounds,
        "batch": recipe.global_batch,
        "micro_batch": len(fixed.labels),
        "speed": recipe.speed,
        "decoder": decoder,
        "train_size": recipe.images.train_size,
        "precision": fed[-1].precision,
        **where(world),
    }


def bench_loop(recipe: Recipe, dataset: Dataset, world: World, *, steps: int, rounds: int) -> dict[str, Any]:
    """`train` with journal and checkpoints against nothing but its batches and its step.

    Both go on in this process and take turns of some seconds, so that both meet the machine in the same moods: at each
    of its readings `train` waits while the bare loop takes as many steps. Nothing of the first turns is counted.

    Args:
        recipe: what to train; how many images at a time and how the network runs must be settled.
        dataset: on which images.
        world: one process and its device.
        steps: of each turn.
        rounds: timed turns of each.

    Returns: mean steps/s of both, their ratio, the interval in which it lies with 95 % (bootstrap over the rounds), and
        the seconds of each turn.
    """
    total = steps * (rounds + 1)
    # One epoch, so that no evaluation comes in between.
    dataset = dataclasses.replace(dataset, train=_enough(dataset.train, total * recipe.global_batch))
    recipe = dataclasses.replace(
        recipe, epochs=1, log_every=steps, schedule=dataclasses.replace(recipe.schedule, warmup_epochs=0)
    )
    bare = Trials(recipe, world, len(dataset.classes))
    batches = TrainLoader(dataset.train, recipe, world).batches(first_step=0, last_step=total)
    with tempfile.TemporaryDirectory() as folder:
        journal = _Alternating(Path(folder), lambda: bare.run(batches, steps=steps, warm_up=0))
        facts = DatasetInfo(dataset.name, dataset.digest, str(dataset.root), {})
        journal.start(RunInfo("bench", "bench", params={}, tags={}, dataset=facts))
        # Half of the time goes to the bare loop, so one checkpoint for as much of training as ever is every other minute.
        train(recipe, dataset, Path(folder), world, journal, checkpoint_interval=2 * INTERVAL)
    seconds = {name: turns[1:] for name, turns in journal.seconds.items()}
    pairs = list(zip(seconds["bare"], seconds["loop"], strict=True))
    return {
        "steps_per_second": {name: steps * rounds / sum(turns) for name, turns in seconds.items()},
        "loop_to_bare": _of_sums(pairs),
        "loop_to_bare_95": _interval(pairs),
        "seconds": seconds,
        "steps": steps,
        "rounds": rounds,
        "batch": recipe.global_batch,
        "train_size": recipe.images.train_size,
        **where(world),
    }


def _enough(split: Split, images: int) -> Split:
    """So many images, by using those of `split` again and again."""
    return Split(split.root, np.tile(split.rows, -(-images // len(split)))[:images])


def _of_sums(pairs: Sequence[tuple[float, float]]) -> float:
    return sum(above for above, _ in pairs) / sum(below for _, below in pairs)


def _interval(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Where the ratio of sums lies with 95 %: rounds are drawn again and again from those there are."""
    luck = random.Random(0)
    drawn = sorted(_of_sums(luck.choices(pairs, k=len(pairs))) for _ in range(2000))
    return drawn[50], drawn[-50]


class _Alternating(Journal):
    """A journal that at each reading gives way to the bare loop, and notes what either took.

    Its own work counts as the loop's.
    """

    def __init__(self, folder: Path, bare: Callable[[], Trial]) -> None:
        super().__init__(folder)
        self._bare = bare
        self.seconds: dict[str, list[float]] = {"loop": [], "bare": []}
        self._since = time.perf_counter()

    def log(self, step: int, values: Any) -> None:
        super().log(step, values)
        if metrics.TRAIN_LOSS in values:
            begun = time.perf_counter()
            self.seconds["loop"].append(begun - self._since)
            self._bare()
            self._since = time.perf_counter()
            self.seconds["bare"].append(self._since - begun)


class _Plain:
    """The loop of countless tutorials, with autocast and channels-last: the loss is read at every step.

    Source: github.com/pytorch/examples, imagenet/main.py; PyTorch's AMP recipe.
    """

    def __init__(self, recipe: Recipe, world: World) -> None:
        torch.manual_seed(recipe.seed)
        self._model = build(recipe.model, CLASSES).to(world.device).to(memory_format=torch.channels_last)
        self._optimizer = torch.optim.SGD(
            self._model.parameters(), lr=RATE, momentum=recipe.optimizer.momentum, weight_decay=1e-4
        )
        self._precision = choose_precision(recipe.precision, world.device)
        self._scaler = torch.amp.GradScaler(world.device.type, enabled=self._precision.scaled)

    def run(self, batch: Batch, steps: int) -> float:
        self._model.train()
        for step in range(WARM_UP + steps):
            if step == WARM_UP:
                begun = time.perf_counter()
            with self._precision.autocast():
                loss = F.cross_entropy(self._model(batch.images), batch.labels)
            self._optimizer.zero_grad()
            self._scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            self._scaler.step(self._optimizer)
            self._scaler.update()
            loss.item()
        return steps * len(batch.labels) / (time.perf_counter() - begun)


def limits(recipe: Recipe, world: World, rate: float) -> dict[str, float | None]:
    """What share of this device's measured arithmetic and memory speed `rate` images/s are."""
    from torch.utils.flop_counter import FlopCounterMode  # takes a while to import

    precision = choose_precision(recipe.precision, world.device)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision.name]
    size = recipe.images.train_size
    model = build(recipe.model, CLASSES).to(world.device)
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(2, 3, size, size, device=world.device)).sum().backward()
    flops = counter.get_total_flops() / 2
    megabytes = MEGABYTES_AT_224 * (size / 224) ** 2 * (2 if precision.name == "fp32" else 1)
    peak, bandwidth = _matmul_peak(world.device, dtype), _bandwidth(world.device)
    return {
        "gflop_per_image": flops / 1e9,
        "matmul_peak_tflops": peak / 1e12,
        "flops_share": rate * flops / peak,
        "memory_gb_per_second": bandwidth / 1e9,
        "bandwidth_share": rate * megabytes * 1e6 / bandwidth if recipe.model == "resnet50" else None,
    }


def _matmul_peak(device: torch.device, dtype: torch.dtype) -> float:
    """Floating-point operations per second of a large matrix product."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _seconds(lambda: a @ b, device)


def _bandwidth(device: torch.device) -> float:
    """Bytes per second, read and written, of copying tensors larger than any cache."""
    source = torch.zeros(2**30 if device.type == "cuda" else 2**28, dtype=torch.uint8, device=device)
    into = torch.empty_like(source)
    return 2 * source.numel() / _seconds(lambda: into.copy_(source), device)


def _seconds(work: Callable[[], Any], device: torch.device, *, times: int = 10) -> float:
    """The shortest of some turns: what the device can do."""
    best = float("inf")
    for _ in range(times + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begun = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        best = min(best, time.perf_counter() - begun)
    return best


def _profile(trials: Trials, batches: Iterator[Batch], into: Path) -> None:
    from torch.profiler import profile

    trials.run(batches, steps=1, warm_up=WARM_UP - 1)
    with profile() as trace:  # of the CPU, and of the GPU where there is one
        trials.run(batches, steps=PROFILED, warm_up=0)
    into.parent.mkdir(parents=True, exist_ok=True)
    trace.export_chrome_trace(str(into))


def where(world: World) -> dict[str, Any]:
    """The machine and the versions that figures belong to."""
    return {
        "device": torch.cuda.get_device_name(world.device)
        if world.device.type == "cuda"
        else _cpu_name() or platform.processor(),
        "cpu_cores": len(os.sched_getaffinity(0)),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def _cpu_name() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return ""
