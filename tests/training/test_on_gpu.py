"""What only a GPU can show. Run by `scripts/gpu-check`; skipped where there is none."""

from __future__ import annotations

import itertools
import logging
import os
import signal
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import ALONE, write_odd_files
from trainer import metrics
from trainer.checkpoint import Checkpoints
from trainer.config import CompileMode, Decoder, Execution, Optimizer, Recipe
from trainer.dataloader import MEAN, STD, Batch, TrainLoader, ValLoader
from trainer.dataset import Dataset, folder, open_dataset, prepare
from trainer.distributed import World
from trainer.errors import Stopped
from trainer.model import build
from trainer.performance import measure
from trainer.tracking import NullLog
from trainer.training import Meter, Step, full_precision, make_optimizer, mixed, train
from trainer.training._ema import EMA
from trainer.training._precision import LossScaler
from trainer.training._step import make_model

HalfPrecision = Literal["fp16", "bf16"]

# A GPU's libraries warn of much that is not ours, and torch of its own mode that finds host waits.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]


@pytest.fixture(autouse=True)
def nothing_compiled() -> Iterator[None]:
    yield
    torch.compiler.reset()


@pytest.fixture(scope="module")
def gpu() -> World:
    return World(0, 1, torch.device("cuda", 0))


def test_mixed_decoding_equals_the_cpu_path(gpu: World, dataset: Dataset, tiny: Recipe) -> None:
    decoders: tuple[Decoder, Decoder] = ("mixed", "cpu")
    for preprocess in (tiny.preprocess, replace(tiny.preprocess, val_resize=256, val_size=224)):
        decoded = [
            torch.cat([b.images for b in ValLoader(dataset.val, preprocess, gpu, batch=4, decoder=decoder)])
            for decoder in decoders
        ]
        assert decoded[0].device.type == "cuda"
        assert (decoded[0].cpu() - decoded[1].cpu()).abs().mean() * min(STD) < 2 / 255


def test_mixed_training_crops_equal_the_cpu_path(gpu: World, dataset: Dataset, tiny: Recipe) -> None:
    decoders: tuple[Decoder, Decoder] = ("mixed", "cpu")
    on_both, on_cpu = (
        next(
            TrainLoader(dataset.train, tiny, gpu, Execution(decoder=decoder)).batches(
                first_step=0, last_step=1
            )
        )
        for decoder in decoders
    )

    assert on_both.labels.tolist() == on_cpu.labels.tolist()
    assert (on_both.images.cpu() - on_cpu.images.cpu()).abs().mean() * min(STD) < 2 / 255


@pytest.mark.parametrize("augment", ["none", "randaugment", "trivialaugment"])
def test_augmented_images_are_those_of_the_cpu(
    gpu: World, dataset: Dataset, tiny: Recipe, augment: Literal["none", "randaugment", "trivialaugment"]
) -> None:
    """Resized by DALI here and by torch there, with the same draws."""
    preprocess = replace(tiny.preprocess, augment=augment, color_jitter=(0.4, 0.4, 0.4, 0.1), erasing=0.5)
    recipe, execution = replace(tiny, preprocess=preprocess), Execution(decoder="cpu")
    ours, theirs = (
        next(TrainLoader(dataset.train, recipe, world, execution).batches(first_step=0, last_step=1))
        for world in (gpu, ALONE)
    )

    assert (ours.images.cpu() - theirs.images).abs().mean() * min(STD) < 4 / 255


def test_mixing_and_averaging_make_the_host_wait_for_nothing(gpu: World, tiny: Recipe) -> None:
    recipe = replace(tiny, mixup=0.2, cutmix=1.0, ema_decay=0.9, loss="binary_cross_entropy")
    model = make_model(recipe, 10, gpu)
    ema, meter = EMA(model, recipe, steps_per_epoch=100), Meter(gpu)
    step = Step(model, make_optimizer(model, recipe), recipe, gpu)
    images = torch.randn(8, 3, 64, 64, device=gpu.device).to(memory_format=torch.channels_last)
    fixed = itertools.repeat(Batch(images, torch.arange(8, device=gpu.device)))
    batches = mixed(fixed, recipe, 10, gpu, accumulation_steps=1, steps_per_epoch=100, first_step=0)
    for number in range(1, 4):
        step(batches, 0.01, meter)
        ema.update(number)
    assert all(next(batches).images.is_contiguous(memory_format=torch.channels_last) for _ in range(8))

    try:
        torch.cuda.set_sync_debug_mode("error")
        step(batches, 0.01, meter)
        ema.update(4)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_batches_are_channels_last_on_the_gpu_without_a_copy(
    gpu: World, dataset: Dataset, tiny: Recipe
) -> None:
    batch = next(TrainLoader(dataset.train, tiny, gpu).batches(first_step=0, last_step=1))

    assert batch.images.is_cuda
    assert batch.labels.is_cuda
    assert batch.images._base is not None, "a view of what DALI wrote, not a copy"
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_resnet_50_learns_in_half_precision(gpu: World, tiny: Recipe, precision: HalfPrecision) -> None:
    torch.manual_seed(0)
    recipe = replace(tiny, precision=precision, global_batch=32)
    model = build("resnet50", 10, zero_init_residual=True).to(gpu.device)
    optimizer = make_optimizer(model, recipe)
    step, meter = Step(model, optimizer, recipe, gpu), Meter(gpu)
    images = torch.randn(32, 3, 64, 64, device=gpu.device).to(memory_format=torch.channels_last)
    batch = Batch(images, torch.arange(32, device=gpu.device) % 10)

    losses = []
    for number in range(30):
        step(iter([batch]), 0.02, meter)
        losses.append(meter.read(step=number + 1, lr=0.02)[metrics.TRAIN_LOSS])

    assert losses[-1] < 0.5 * losses[0]
    assert step.scaler.is_enabled() == (step.precision.name == "fp16")
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize(
    ("precision", "optimizer"),
    [
        ("fp16", Optimizer()),
        ("bf16", Optimizer()),
        ("fp16", Optimizer(name="sgdw")),
        ("fp16", Optimizer(name="adamw")),
        ("fp16", Optimizer(name="lamb", weight_decay=0.02)),
        ("fp16", Optimizer(name="lamb", weight_decay=0.02, clip_norm=1.0)),
    ],
    ids=lambda value: value if isinstance(value, str) else f"{value.name}-{value.clip_norm:g}",
)
def test_a_step_does_not_wait_for_the_gpu(
    gpu: World, tiny: Recipe, precision: HalfPrecision, optimizer: Optimizer
) -> None:
    recipe = replace(tiny, precision=precision, optimizer=optimizer)
    model = build("resnet50", 10).to(gpu.device)
    step, meter = Step(model, make_optimizer(model, recipe), recipe, gpu), Meter(gpu)
    batch = Batch(
        torch.randn(8, 3, 64, 64, device=gpu.device).to(memory_format=torch.channels_last),
        torch.zeros(8, dtype=torch.int64, device=gpu.device),
    )
    for _ in range(3):
        step(iter([batch]), 0.01, meter)

    try:
        torch.cuda.set_sync_debug_mode("error")
        step(iter([batch]), 0.01, meter)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_first_step_that_fp16_skips_leaves_no_momentum(gpu: World, tiny: Recipe) -> None:
    """Where memory that is not set holds what was there before."""
    model = build("resnet50", 10).to(gpu.device)
    optimizer = make_optimizer(model, tiny)
    step = Step(model, optimizer, replace(tiny, precision="fp16"), gpu)
    step.scaler = LossScaler("cuda", init_scale=2.0**100)
    images = torch.randn(8, 3, 64, 64, device=gpu.device).to(memory_format=torch.channels_last)
    before = [weights.clone() for weights in model.parameters()]
    step(iter([Batch(images, torch.arange(8, device=gpu.device))]), 0.1, Meter(gpu))

    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True)), "it was skipped"
    assert not any(state["momentum_buffer"].any() for state in optimizer.state.values())


def test_memory_is_steady_over_two_hundred_steps(gpu: World, tiny: Recipe, dataset: Dataset) -> None:
    recipe = replace(tiny, precision="bf16")
    model = build("resnet50", 2).to(gpu.device)
    step, meter = Step(model, make_optimizer(model, recipe), recipe, gpu), Meter(gpu)
    images = TrainLoader(dataset.train, recipe, gpu).batches(first_step=0, last_step=220)
    for number in range(220):
        if number == 20:
            before = torch.cuda.memory_reserved(), torch.cuda.mem_get_info()[0]
        step(images, 0.001, meter)
        if number % 50 == 0:
            meter.read(step=number, lr=0.001)

    assert torch.cuda.memory_reserved() <= before[0]
    assert torch.cuda.mem_get_info()[0] >= before[1] - 64 * 2**20  # DALI's own memory is in this one


@pytest.mark.parametrize("decoder", ["mixed", "mixed-huffman", "cpu"])
def test_unusual_files_decode_as_pillow_decodes_them(
    gpu: World, tiny: Recipe, tmp_path: Path, decoder: Decoder
) -> None:
    write_odd_files(tmp_path / "odd" / "train" / "kind")
    write_odd_files(tmp_path / "odd" / "val" / "kind")
    prepare(folder(tmp_path / "odd", out=tmp_path / "odd"), tmp_path / "odd")
    split = open_dataset(tmp_path / "odd").val
    whole = replace(tiny.preprocess, val_resize=48, val_size=48)
    (batch,) = ValLoader(split, whole, gpu, batch=len(split), decoder=decoder)

    for index, image in enumerate(batch.images.cpu()):
        with Image.open(split.path(index)) as photo:
            middle = photo.convert("RGB").crop((8, 0, 56, 48))  # of 64 x 48
        theirs = torch.tensor(np.asarray(middle)).permute(2, 0, 1) / 255
        ours = image * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]
        assert (ours - theirs).abs().mean() < 2 / 255, split.name(index)


class Losses(NullLog):
    """Training losses by step; asks for a stop at one of them, as the operating system does."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.by_step: dict[int, float] = {}
        self.stop_at = stop_at

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if metrics.TRAIN_LOSS in values:
            self.by_step[step] = values[metrics.TRAIN_LOSS]
            if step == self.stop_at:
                os.kill(os.getpid(), signal.SIGTERM)

    def truncate_after(self, step: int) -> None:
        self.by_step = {at: loss for at, loss in self.by_step.items() if at <= step}


def test_a_resumed_run_has_the_losses_of_an_unbroken_one(
    gpu: World, tiny: Recipe, dataset: Dataset, tmp_path: Path
) -> None:
    unbroken, broken = Losses(), Losses(stop_at=3)
    recipe = replace(tiny, precision="fp32")
    train(recipe, dataset, tmp_path / "unbroken", gpu, unbroken)
    with pytest.raises(Stopped):
        train(recipe, dataset, tmp_path / "broken", gpu, broken)
    broken.stop_at = None
    train(recipe, dataset, tmp_path / "broken", gpu, broken)

    ours, theirs = broken.by_step, unbroken.by_step
    assert ours.keys() == theirs.keys()
    # cuDNN's sums have no fixed order: equal but for rounding.
    torch.testing.assert_close(
        torch.tensor([*ours.values()]), torch.tensor([*theirs.values()]), rtol=0.02, atol=0.02
    )


def test_the_trials_choose_something_that_runs(
    gpu: World, tiny: Recipe, dataset: Dataset, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "trainer")
    recipe = replace(tiny, precision="bf16")
    result = measure(recipe, dataset.train, gpu, steps=2, time_budget=600, short_run=0)

    assert "off" in result.throughputs, caplog.messages
    assert result.throughputs.keys() >= {"mixed", "cpu"}, caplog.messages
    assert result.execution.batch_per_gpu == 8


def test_a_checkpoint_holds_the_state_of_its_moment(gpu: World, tiny: Recipe, tmp_path: Path) -> None:
    class Part:
        value = torch.zeros(50_000_000, device=gpu.device)
        loaded = torch.zeros(0)

        def state_dict(self) -> dict[str, Any]:
            return {"value": self.value}

        def load_state_dict(self, state: dict[str, Any]) -> None:
            self.loaded = state["value"]

    part = Part()
    with Checkpoints(tmp_path, gpu, recipe=tiny, dataset_digest="mine") as checkpoints:
        for step in range(1, 4):
            part.value.fill_(step)
            checkpoints.save(step, {"part": part})
            part.value.fill_(-1)  # training goes on while the copy is on its way
            checkpoints.wait()
            checkpoints.restore_newest({"part": part})
            assert torch.unique(part.loaded).tolist() == [step]


def losses_of(recipe: Recipe, gpu: World, steps: int, *, compile: CompileMode) -> list[float]:
    """Training losses of ResNet-50 on fixed batches, step by step.

    With a rate so low, and blocks that begin as identities, that it is not chaos which is compared.
    """
    torch.manual_seed(0)
    model = build("resnet50", 10, zero_init_residual=True).to(gpu.device)
    step = Step(model, make_optimizer(model, recipe), recipe, gpu, Execution(compile=compile))
    meter, rng, losses = Meter(gpu), torch.Generator().manual_seed(1), []
    for number in range(steps):
        images = torch.randn(16, 3, 64, 64, generator=rng).to(gpu.device)
        labels = torch.randint(10, (16,), generator=rng).to(gpu.device)
        step(iter([Batch(images.to(memory_format=torch.channels_last), labels)]), 0.001, meter)
        losses.append(meter.read(step=number + 1, lr=0.001)[metrics.TRAIN_LOSS])
    return losses


@pytest.mark.parametrize(
    ("mode", "precision"), [("default", "fp32"), ("default", "bf16"), ("cudagraphs", "fp16")]
)
def test_a_compiled_network_learns_as_the_eager_one(
    gpu: World, tiny: Recipe, precision: Literal["fp32", "bf16", "fp16"], mode: CompileMode
) -> None:
    recipe = replace(tiny, precision=precision, global_batch=16)
    with full_precision():
        eager = losses_of(recipe, gpu, 8, compile="off")
        compiled = losses_of(recipe, gpu, 8, compile=mode)

    tolerance = 0.01 if precision == "fp32" else 0.05
    torch.testing.assert_close(torch.tensor(compiled), torch.tensor(eager), rtol=tolerance, atol=tolerance)
