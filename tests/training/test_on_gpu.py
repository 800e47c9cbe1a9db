"""What only a GPU can show. Run by `scripts/gpu-check`; skipped where there is none."""

import itertools
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from tests.conftest import ALONE, write_odd_files
from tests.training.test_loop import Notes
from trainer.checkpoint import Checkpoints
from trainer.dataloader import MEAN, STD, Batch, TrainLoader, ValLoader
from trainer.dataset import folder, open_dataset, prepare
from trainer.distributed import World
from trainer.errors import Stopped
from trainer.model import build
from trainer.performance import measure
from trainer.training import Meter, Step, make_optimizer, mixed, train
from trainer.training._ema import EMA
from trainer.training._evaluation import full_precision
from trainer.training._step import make_model

# A GPU's libraries warn of much that is not ours, and torch of its own mode that finds host waits.
pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]


@pytest.fixture(autouse=True)
def nothing_compiled():
    yield
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def gpu():
    return World(0, 1, torch.device("cuda", 0))


def test_mixed_decoding_equals_the_cpu_path(gpu, dataset, tiny):
    for images in (tiny.preprocess, replace(tiny.preprocess, val_resize=256, val_size=224)):
        decoded = [
            torch.cat([b.images for b in ValLoader(dataset.val, images, gpu, batch=4, decoder=where)])
            for where in ("mixed", "cpu")
        ]
        assert decoded[0].device.type == "cuda"
        assert (decoded[0].cpu() - decoded[1].cpu()).abs().mean() * min(STD) < 2 / 255


def test_mixed_training_crops_equal_the_cpu_path(gpu, dataset, tiny):
    on_both, on_cpu = (
        next(TrainLoader(dataset.train, tiny, gpu, decoder=where).batches(first_step=0, last_step=1))
        for where in ("mixed", "cpu")
    )

    assert on_both.labels.tolist() == on_cpu.labels.tolist()
    assert (on_both.images.cpu() - on_cpu.images.cpu()).abs().mean() * min(STD) < 2 / 255


@pytest.mark.parametrize("augment", ["none", "randaugment", "trivialaugment"])
def test_augmented_images_are_those_of_the_cpu(gpu, dataset, tiny, augment):
    """Resized by DALI here and by torch there, with the same draws."""
    images = replace(tiny.preprocess, augment=augment, color_jitter=(0.4, 0.4, 0.4, 0.1), erasing=0.5)
    recipe = replace(tiny, images=images)
    ours, theirs = (
        next(TrainLoader(dataset.train, recipe, world, decoder="cpu").batches(first_step=0, last_step=1))
        for world in (gpu, ALONE)
    )

    assert (ours.images.cpu() - theirs.images).abs().mean() * min(STD) < 4 / 255


def test_mixing_and_averaging_make_the_host_wait_for_nothing(gpu, tiny):
    recipe = replace(tiny, mixup=0.2, cutmix=1.0, ema_decay=0.9, loss="binary_cross_entropy")
    model = make_model(recipe, 10, gpu)
    average, step, meter = (
        EMA(model, recipe), Step(model, make_optimizer(model, recipe), recipe, gpu), Meter(gpu)
    )  # fmt: skip
    images = torch.randn(8, 3, 64, 64, device=gpu.device).to(memory_format=torch.channels_last)
    batches = mixed(
        itertools.repeat(Batch(images, torch.arange(8, device=gpu.device))), recipe, 10, gpu, first_step=0
    )
    for number in range(1, 4):
        step(batches, 0.01, meter)
        average.update(number)
    assert all(next(batches).images.is_contiguous(memory_format=torch.channels_last) for _ in range(8))

    try:
        torch.cuda.set_sync_debug_mode("error")
        step(batches, 0.01, meter)
        average.update(4)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_batches_are_channels_last_on_the_gpu_without_a_copy(gpu, dataset, tiny):
    batch = next(TrainLoader(dataset.train, tiny, gpu).batches(first_step=0, last_step=1))

    assert batch.images.is_cuda
    assert batch.labels.is_cuda
    assert batch.images._base is not None, "a view of what DALI wrote, not a copy"
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_resnet_50_learns_in_half_precision(gpu, tiny, precision):
    torch.manual_seed(0)
    recipe = replace(tiny, precision=precision, global_batch=32, batch_per_gpu=32)
    model = build("resnet50", 10, zero_init_residual=True).to(gpu.device)
    optimizer = make_optimizer(model, recipe)
    step, meter = Step(model, optimizer, recipe, gpu), Meter(gpu)
    images = torch.randn(32, 3, 64, 64, device=gpu.device).to(memory_format=torch.channels_last)
    batch = Batch(images, torch.arange(32, device=gpu.device) % 10)

    losses = []
    for number in range(30):
        step(iter([batch]), 0.02, meter)
        losses.append(meter.read(step=number + 1, rate=0.02)["train/loss"])

    assert losses[-1] < 0.5 * losses[0]
    assert step.scaler.is_enabled() == (step.precision.name == "fp16")
    assert all(p.dtype == torch.float32 for p in model.parameters())


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_a_step_does_not_wait_for_the_gpu(gpu, tiny, precision):
    recipe = replace(tiny, precision=precision)
    model = build("resnet50", 10).to(gpu.device)
    optimizer = make_optimizer(model, recipe)
    step, meter = Step(model, optimizer, recipe, gpu), Meter(gpu)
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


def test_a_first_step_that_fp16_skips_leaves_no_momentum(gpu, tiny):
    """Where memory that is not set holds what was there before."""
    model = build("resnet50", 10).to(gpu.device)
    optimizer = make_optimizer(model, tiny)
    step = Step(model, optimizer, replace(tiny, precision="fp16"), gpu)
    step.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**100)
    images = torch.randn(8, 3, 64, 64, device=gpu.device).to(memory_format=torch.channels_last)
    before = [weights.clone() for weights in model.parameters()]
    step(iter([Batch(images, torch.arange(8, device=gpu.device))]), 0.1, Meter(gpu))

    assert all(torch.equal(*pair) for pair in zip(before, model.parameters(), strict=True)), "it was skipped"
    assert not any(state["momentum_buffer"].any() for state in optimizer.state.values())


def taken(recipe, gpu, steps, *, speed, size=64):
    """ResNet-50 after some steps on fixed batches, and the losses it had."""
    torch.manual_seed(0)
    model = build("resnet50", 10).to(gpu.device)
    step, meter = (
        Step(model, make_optimizer(model, recipe), replace(recipe, speed=speed), gpu),
        Meter(gpu),
    )
    luck, losses = torch.Generator().manual_seed(1), []
    for number in range(steps):
        images = torch.randn(16, 3, size, size, generator=luck).to(gpu.device)
        labels = torch.randint(10, (16,), generator=luck).to(gpu.device)
        step(iter([Batch(images.to(memory_format=torch.channels_last), labels)]), 0.01, meter)
        losses.append(meter.read(step=number + 1, rate=0.01)["train/loss"])
    return losses


@pytest.mark.parametrize(
    ("speed", "precision"), [("compile", "fp32"), ("compile", "bf16"), ("graphs", "fp16")]
)
def test_a_compiled_network_learns_as_the_eager_one(gpu, tiny, precision, speed):
    recipe = replace(tiny, precision=precision, global_batch=16, batch_per_gpu=16)
    with full_precision():
        eager, compiled = (taken(recipe, gpu, 8, speed=kind) for kind in ("eager", speed))

    tolerance = 0.01 if precision == "fp32" else 0.1
    torch.testing.assert_close(torch.tensor(compiled), torch.tensor(eager), rtol=tolerance, atol=tolerance)


def test_memory_is_steady_over_two_hundred_steps(gpu, tiny, dataset):
    recipe = replace(tiny, precision="bf16")
    model = build("resnet50", 2).to(gpu.device)
    step, meter = Step(model, make_optimizer(model, recipe), recipe, gpu), Meter(gpu)
    images = TrainLoader(dataset.train, recipe, gpu).batches(first_step=0, last_step=220)
    for number in range(220):
        if number == 20:
            before = torch.cuda.memory_reserved(), torch.cuda.mem_get_info()[0]
        step(images, 0.001, meter)
        if number % 50 == 0:
            meter.read(step=number, rate=0.001)

    assert torch.cuda.memory_reserved() <= before[0]
    assert torch.cuda.mem_get_info()[0] >= before[1] - 64 * 2**20  # DALI's own memory is in this one


@pytest.mark.parametrize("decoder", ["mixed", "mixed-huffman", "cpu"])
def test_unusual_files_decode_as_pillow_decodes_them(gpu, tiny, tmp_path, decoder):
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


def test_a_run_that_goes_on_has_the_losses_of_an_unbroken_one(gpu, tiny, dataset, tmp_path):
    unbroken, broken = Notes(), Notes(stop_at=3)
    recipe = replace(tiny, precision="fp32")
    train(recipe, dataset, tmp_path / "unbroken", gpu, unbroken)
    with pytest.raises(Stopped):
        train(recipe, dataset, tmp_path / "broken", gpu, broken)
    broken.stop_at = None
    train(recipe, dataset, tmp_path / "broken", gpu, broken)

    ours, theirs = (dict(notes.of("train/loss")) for notes in (broken, unbroken))
    assert ours.keys() == theirs.keys()
    # cuDNN's sums have no fixed order: equal but for rounding.
    torch.testing.assert_close(
        torch.tensor([*ours.values()]), torch.tensor([*theirs.values()]), rtol=0.02, atol=0.02
    )


def test_the_trials_choose_something_that_runs(gpu, tiny, dataset):
    recipe = replace(tiny, precision="bf16", batch_per_gpu="auto", speed="auto")
    told = []
    choice = measure(recipe, dataset.train, gpu, decoder=None, tell=told.append, steps=2, timeout=600)

    assert "eager" in choice.tried, told
    assert choice.tried.keys() >= {"mixed", "cpu"}, told
    assert choice.batch_per_gpu == 8


def test_a_checkpoint_holds_what_was_there_when_it_was_taken(gpu, tmp_path):
    class Part:
        value = torch.zeros(50_000_000, device=gpu.device)

        def state_dict(self):
            return {"value": self.value}

        def load_state_dict(self, state):
            self.loaded = state["value"]

    part = Part()
    with Checkpoints(tmp_path, gpu, identity="mine", tell=print) as checkpoints:
        for step in range(1, 4):
            part.value.fill_(step)
            checkpoints.save(step, {"part": part})
            part.value.fill_(-1)  # training goes on while the copy is on its way
            checkpoints.wait()
            checkpoints.restore_newest({"part": part})
            assert part.loaded.unique().tolist() == [step]
