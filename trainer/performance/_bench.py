"""Timed training: the device alone, fed with real JPEGs, the feeding alone, and the loop people write."""

from __future__ import annotations

import dataclasses
import itertools
import os
import platform
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from trainer.config import Recipe
from trainer.data import Batch, DecodeOn, TrainImages, ValImages
from trainer.dataset import Dataset, Split
from trainer.model import build
from trainer.performance._estimate import IMAGENET, MEGABYTES_AT_224
from trainer.performance._rounds import in_rotation, ratio
from trainer.performance._trial import CLASSES, RATE, WARM_UP, Trial, Trials, fixed_batch
from trainer.tracking import DatasetFacts, Journal
from trainer.training import choose_precision, train
from trainer.world import World

PROFILED = 5  # steps


def bench_train(
    recipe: Recipe,
    split: Split,
    world: World,
    *,
    steps: int,
    rounds: int,
    decode_on: DecodeOn,
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
        decode_on: where JPEGs are decoded.
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

    def enough(images: int) -> Split:
        return Split(split.root, np.tile(split.rows, -(-images // len(split)))[:images])

    def batches(count: int) -> Iterator[Batch]:
        source = TrainImages(enough(count * recipe.global_batch), recipe, world, decode_on=decode_on)
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
    validated = ValImages(
        enough(3 * steps * recipe.global_batch), recipe.images, world, batch=len(fixed.labels), decode_on=decode_on
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
        "decode_on": decode_on,
        "train_size": recipe.images.train_size,
        "precision": fed[-1].precision,
        **where(world),
    }


def bench_loop(recipe: Recipe, dataset: Dataset, world: World, *, steps: int, rounds: int) -> dict[str, Any]:
    """`train` with journal and snapshots against nothing but its batches and its step, in rotation.

    Args:
        recipe: what to train.
        dataset: on which images.
        world: one process and its device.
        steps: of each turn; the first `log_every` of them are not timed.
        rounds: turns of each.

    Returns: steps/s and the host's processor seconds a step of each turn, their medians, and two ratios, each the
        median over rounds: of the speeds, and of the processor's time, which other guests of a rented machine
        disturb less.
    """
    epoch = recipe.steps_per_epoch(len(dataset.train))
    longer = Split(dataset.train.root, np.tile(dataset.train.rows, -(-steps // epoch)))
    dataset = dataclasses.replace(dataset, train=longer)  # one epoch, so that no evaluation comes in between
    recipe = dataclasses.replace(
        recipe, epochs=1, schedule=dataclasses.replace(recipe.schedule, warmup_epochs=0)
    )
    total = recipe.steps_per_epoch(len(longer))
    recipe = dataclasses.replace(recipe, log_every=max(1, min(recipe.log_every, total // 4)))
    speeds: dict[str, list[float]] = {"loop": [], "bare": []}
    processor: dict[str, list[float]] = {"loop": [], "bare": []}
    for _, name in in_rotation(speeds, rounds):
        with tempfile.TemporaryDirectory() as folder:
            measure = _loop if name == "loop" else _bare
            speed, cpu = measure(recipe, dataset, world, total, Path(folder))
        speeds[name].append(speed)
        processor[name].append(cpu)
    return {
        "steps_per_second": {name: median(measured) for name, measured in speeds.items()},
        "cpu_seconds_per_step": {name: median(measured) for name, measured in processor.items()},
        "loop_to_bare": ratio(speeds["loop"], speeds["bare"]),
        "loop_to_bare_per_cpu_second": ratio(processor["bare"], processor["loop"]),
        "turns": {"steps_per_second": speeds, "cpu_seconds_per_step": processor},
        "steps": total,
        "rounds": rounds,
        "batch": recipe.global_batch,
        "train_size": recipe.images.train_size,
        **where(world),
    }


class _Timed(Journal):
    """A journal that notes when the loop comes to it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seen: list[tuple[int, float, float]] = []  # step, time, processor time

    def log(self, step: int, values: Any) -> None:
        super().log(step, values)
        if "train/loss" in values:
            self.seen.append((step, time.perf_counter(), time.process_time()))


def _loop(recipe: Recipe, dataset: Dataset, world: World, total: int, folder: Path) -> tuple[float, float]:
    journal = _Timed(folder)
    facts = DatasetFacts(dataset.name, dataset.digest, str(dataset.root), {})
    journal.start(name="bench", experiment="bench", params={}, tags={}, dataset=facts)
    train(recipe, dataset, folder, world, journal)
    (first, begun, cpu), (last, ended, cpu_then) = journal.seen[0], journal.seen[-1]
    return (last - first) / (ended - begun), (cpu_then - cpu) / (last - first)


def _bare(recipe: Recipe, dataset: Dataset, world: World, total: int, folder: Path) -> tuple[float, float]:
    trials = Trials(recipe, world, len(dataset.classes))
    batches = TrainImages(dataset.train, recipe, world).batches(first_step=0, last_step=total)
    bare = trials.run(batches, steps=total - recipe.log_every, warm_up=recipe.log_every)
    return bare.images_per_second / recipe.global_batch, bare.cpu_seconds


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
