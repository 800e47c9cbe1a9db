"""What only a GPU can show. Run by `scripts/gpu-check`; skipped where there is none."""

from dataclasses import replace

import pytest
import torch

from trainer.checkpoint import Checkpoints
from trainer.data import STD, Batch, TrainImages, ValImages
from trainer.model import build
from trainer.training import Meter, Step, make_optimizer
from trainer.world import World

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def gpu():
    return World(0, 1, torch.device("cuda", 0))


def test_mixed_decoding_equals_the_cpu_path(gpu, dataset, tiny):
    for images in (tiny.images, replace(tiny.images, val_resize=256, val_size=224)):
        decoded = [
            torch.cat([b.images for b in ValImages(dataset.val, images, gpu, batch=4, decode_on=where)])
            for where in ("mixed", "cpu")
        ]
        assert decoded[0].device.type == "cuda"
        assert (decoded[0].cpu() - decoded[1].cpu()).abs().mean() * min(STD) < 2 / 255


def test_mixed_training_crops_equal_the_cpu_path(gpu, dataset, tiny):
    mixed, cpu = (
        next(TrainImages(dataset.train, tiny, gpu, decode_on=where).batches(first_step=0, last_step=1))
        for where in ("mixed", "cpu")
    )

    assert mixed.labels.tolist() == cpu.labels.tolist()
    assert (mixed.images.cpu() - cpu.images.cpu()).abs().mean() * min(STD) < 2 / 255


def test_batches_are_channels_last_on_the_gpu_without_a_copy(gpu, dataset, tiny):
    batch = next(TrainImages(dataset.train, tiny, gpu).batches(first_step=0, last_step=1))

    assert batch.images.is_cuda
    assert batch.labels.is_cuda
    assert batch.images._base is not None, "a view of what DALI wrote, not a copy"
    assert batch.images.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_resnet_50_learns_in_half_precision(gpu, tiny, precision):
    torch.manual_seed(0)
    recipe = replace(tiny, precision=precision, global_batch=32, batch_per_gpu=32)
    model = build("resnet50", 10, zero_init_residual=True).to(gpu.device)
    optimizer = make_optimizer(model, recipe, gpu)
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
    optimizer = make_optimizer(model, recipe, gpu)
    step, meter = Step(model, optimizer, recipe, gpu), Meter(gpu)
    batch = Batch(
        torch.randn(8, 3, 64, 64, device=gpu.device).to(memory_format=torch.channels_last),
        torch.zeros(8, dtype=torch.int64, device=gpu.device),
    )
    for _ in range(3):
        step(iter([batch]), 0.01, meter)

    torch.cuda.set_sync_debug_mode("error")
    try:
        step(iter([batch]), 0.01, meter)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_snapshot_holds_what_was_there_when_it_was_taken(gpu, tmp_path):
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
