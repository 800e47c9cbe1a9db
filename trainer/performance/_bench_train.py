"""Throughput of training: the device alone, fed with JPEGs, the loader alone, and the loop of tutorials."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch.nn import functional as F

from trainer.config import Execution, Recipe
from trainer.dataloader import Batch, ValLoader
from trainer.dataset import Split
from trainer.distributed import World
from trainer.model import build
from trainer.performance._environment import Environment, environment
from trainer.performance._estimate import IMAGENET
from trainer.performance._photos import repeat_images
from trainer.performance._roofline import Roofline, roofline
from trainer.performance._rounds import median_ratio, rotate
from trainer.performance._trial import CLASSES, LR, WARM_UP, Trial, TrialResult, fixed_batch
from trainer.training import VAL_BATCH, choose_precision, make_loader

PROFILED = 5  # steps
VALIDATED = 3  # images for each trained one: a forward pass is about three times as fast as a step


@dataclass(frozen=True)
class GpuMemory:
    """Who has the memory of a GPU while it trains on JPEGs, in GiB."""

    torch_peak: float  # of tensors
    torch: float  # of tensors and torch's cache
    others: float  # DALI's, and what CUDA and its libraries take
    free: float


@dataclass(frozen=True)
class TrainBench:
    """Result of `bench_train`.

    What is measured: `synthetic` (training on one batch that stays on the device), `real` (training on JPEGs), `loader`
    (batches of JPEGs without training), `plain` (the loop of tutorials on the synthetic batch) and `validation`.
    """

    images_per_second: dict[str, float]  # by what is measured; median over the rounds
    by_round: dict[str, list[float]]  # images/s
    real_to_synthetic: float  # ratio, median over the rounds; below 1: the device waits for images
    synthetic_to_plain: float  # likewise
    validation_share: float  # of an epoch's time, with as many images as ImageNet has
    data_wait_share: float  # of the time, in which the device waits for images
    step_ms: dict[str, float]  # milliseconds of a step by phase
    roofline: Roofline
    gpu_memory: GpuMemory | None  # None: on the CPU
    busy_cores: dict[str, float]  # processors at work on average, by what is measured; median over the rounds
    steps: int
    rounds: int
    global_batch: int
    micro_batch: int
    train_size: int  # pixels
    precision: str
    execution: Execution
    environment: Environment


def bench_train(
    recipe: Recipe,
    split: Split,
    world: World,
    execution: Execution,
    *,
    steps: int,
    rounds: int,
    profile: Path | None = None,
) -> TrainBench:
    """Measure training with its parts left out one by one, each once a round, in rotation.

    Args:
        recipe: what to train.
        split: JPEGs, repeated as often as needed.
        world: one process and its device.
        execution: how this machine runs the recipe.
        steps: timed steps of each measurement, after some of warm-up.
        rounds: number of rounds.
        profile: file for a Chrome trace of five steps on JPEGs; None: no trace.
    """
    trial = Trial(recipe, world, execution, classes=max(CLASSES, int(split.labels.max()) + 1))
    fixed = fixed_batch(recipe, world, execution)
    plain_loop = _PlainLoop(recipe, world)
    on_jpegs: list[TrialResult] = []
    memory: list[GpuMemory] = []

    def batches(count: int) -> Iterator[Batch]:
        source = make_loader(repeat_images(split, count * recipe.global_batch), recipe, world, execution)
        return source.batches(first_step=0, last_step=count)

    def synthetic() -> float:
        return trial.run(itertools.repeat(fixed), steps=steps).images_per_second

    def real() -> float:
        source = batches(WARM_UP + steps)
        on_jpegs.append(trial.run(source, steps=steps))
        if world.device.type == "cuda":  # as long as the source is there, so is DALI's memory
            memory.append(_gpu_memory(world.device))
        return on_jpegs[-1].images_per_second

    def loader() -> float:
        source, images = batches(WARM_UP + steps), 0
        for _ in itertools.islice(source, WARM_UP):
            pass
        begun = time.perf_counter()
        for batch in source:
            images += len(batch.labels)
        return images / (time.perf_counter() - begun)

    def plain() -> float:
        return plain_loop.run(fixed._replace(images=fixed.images.float()), steps)

    val_loader = ValLoader(
        repeat_images(split, VALIDATED * steps * recipe.global_batch),
        recipe.preprocess,
        world,
        batch=min(len(fixed.labels), VAL_BATCH),
        decoder=execution.decoder,
    )

    def validation() -> float:
        begun = time.perf_counter()
        return trial.evaluate(val_loader).num_images / (time.perf_counter() - begun)

    # First, so that the processors at work are not the compiler's.
    trial.run(itertools.repeat(fixed), steps=1, warm_up=0)
    measure: dict[str, Callable[[], float]] = {
        "synthetic": synthetic,
        "real": real,
        "loader": loader,
        "plain": plain,
        "validation": validation,
    }
    by_round: dict[str, list[float]] = {name: [] for name in measure}
    busy: dict[str, list[float]] = {name: [] for name in measure}
    for _, name in rotate(measure, rounds):
        begun, worked = time.perf_counter(), time.process_time()
        by_round[name].append(measure[name]())
        busy[name].append((time.process_time() - worked) / (time.perf_counter() - begun))
    if profile:
        _profile(trial, batches(WARM_UP + PROFILED), profile)

    throughput = {name: median(measured) for name, measured in by_round.items()}
    train_seconds, val_seconds = IMAGENET[0] / throughput["real"], IMAGENET[1] / throughput["validation"]
    return TrainBench(
        images_per_second=throughput,
        by_round=by_round,
        real_to_synthetic=median_ratio(by_round["real"], by_round["synthetic"]),
        synthetic_to_plain=median_ratio(by_round["synthetic"], by_round["plain"]),
        validation_share=val_seconds / (train_seconds + val_seconds),
        data_wait_share=median(result.data_wait_share for result in on_jpegs),
        step_ms={
            phase: median(result.step_ms[phase] for result in on_jpegs) for phase in on_jpegs[0].step_ms
        },
        roofline=roofline(recipe, world, throughput["synthetic"]),
        gpu_memory=memory[-1] if memory else None,
        busy_cores={name: median(cores) for name, cores in busy.items()},
        steps=steps,
        rounds=rounds,
        global_batch=recipe.global_batch,
        micro_batch=len(fixed.labels),
        train_size=recipe.preprocess.train_size,
        precision=on_jpegs[-1].precision,
        execution=execution,
        environment=environment(world.device),
    )


def _gpu_memory(device: torch.device) -> GpuMemory:
    free, total = torch.cuda.mem_get_info(device)
    reserved, gib = torch.cuda.memory_reserved(device), 2**30
    return GpuMemory(
        torch_peak=torch.cuda.max_memory_allocated(device) / gib,
        torch=reserved / gib,
        others=(total - free - reserved) / gib,
        free=free / gib,
    )


class _PlainLoop:
    """The loop of countless tutorials, with autocast and channels-last: the loss is read at every step.

    Source: github.com/pytorch/examples, imagenet/main.py; PyTorch's AMP recipe.
    """

    def __init__(self, recipe: Recipe, world: World) -> None:
        torch.manual_seed(recipe.seed)
        self._model = build(recipe.model, CLASSES).to(world.device).to(memory_format=torch.channels_last)
        self._optimizer = torch.optim.SGD(
            self._model.parameters(), lr=LR, momentum=recipe.optimizer.momentum, weight_decay=1e-4
        )
        self._precision = choose_precision(recipe.precision, world.device)
        self._scaler = torch.amp.GradScaler(world.device.type, enabled=self._precision.scaled)

    def run(self, batch: Batch, steps: int) -> float:
        """Images/s of `steps` steps, after the warm-up."""
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


def _profile(trial: Trial, batches: Iterator[Batch], file: Path) -> None:
    from torch.profiler import profile

    trial.run(batches, steps=1, warm_up=WARM_UP - 1)
    with profile() as trace:  # of the CPU, and of the GPU where there is one
        trial.run(batches, steps=PROFILED, warm_up=0)
    file.parent.mkdir(parents=True, exist_ok=True)
    trace.export_chrome_trace(str(file))
