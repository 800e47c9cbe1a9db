"""One optimizer step."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from tests.conftest import ALONE
from tests.training.steps import Small, batches, trained
from trainer import metrics
from trainer.config import CompileMode, Execution, Optimizer, Recipe
from trainer.dataloader import Batch
from trainer.distributed import World
from trainer.errors import ConfigError
from trainer.training import Meter, Step, make_optimizer


def test_fifty_steps_are_those_of_a_plain_pytorch_loop(tiny: Recipe) -> None:
    given = batches(50)
    ours, _ = trained(tiny, given, 50)

    torch.manual_seed(0)
    plain = Small()
    decayed = [plain.convolution.weight, plain.classifier.weight]
    rest = [plain.convolution.bias, plain.norm.weight, plain.norm.bias, plain.classifier.bias]
    optimizer = torch.optim.SGD(
        [{"params": decayed, "weight_decay": 1e-4}, {"params": rest, "weight_decay": 0}],
        lr=0.1,
        momentum=0.9,
        fused=True,
    )
    for images, labels, *_ in given:
        optimizer.zero_grad()
        F.cross_entropy(plain(images), labels).backward()
        optimizer.step()

    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=1e-6, atol=1e-7)


def test_fifty_clipped_steps_of_adamw_are_those_of_a_plain_pytorch_loop(tiny: Recipe) -> None:
    given = batches(50)
    settings = Optimizer(name="adamw", momentum=0.8, weight_decay=0.05, clip_norm=0.1)
    ours, _ = trained(replace(tiny, optimizer=settings), given, 50, lr=0.01)

    torch.manual_seed(0)
    plain = Small()
    decayed = [plain.convolution.weight, plain.classifier.weight]
    rest = [plain.convolution.bias, plain.norm.weight, plain.norm.bias, plain.classifier.bias]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0}],
        lr=0.01,
        betas=(0.8, 0.999),
        fused=True,
    )
    largest = 0.0
    for images, labels, *_ in given:
        optimizer.zero_grad()
        F.cross_entropy(plain(images), labels).backward()
        largest = max(largest, float(torch.nn.utils.clip_grad_norm_(plain.parameters(), 0.1)))
        optimizer.step()

    assert largest > 0.1, "otherwise there was nothing to clip"
    torch.testing.assert_close(ours.state_dict(), plain.state_dict(), rtol=1e-6, atol=1e-7)


def test_accumulated_gradients_are_those_of_the_whole_batch(tiny: Recipe) -> None:
    """Without BatchNorm, whose statistics are of a micro-batch by definition."""
    given = batches(4)
    halves = [Batch(*(part[at : at + 4] for part in batch[:2])) for batch in given for at in (0, 4)]

    class Normless(Small):
        def __init__(self) -> None:
            super().__init__()
            self.norm = torch.nn.Identity()

    whole, _ = trained(tiny, given, 4, network=Normless)
    accumulated, meter = trained(tiny, halves, 4, execution=Execution(batch_per_gpu=4), network=Normless)

    torch.testing.assert_close(accumulated.state_dict(), whole.state_dict(), rtol=1e-5, atol=1e-6)
    assert meter.read(step=4, lr=0.1)[metrics.TRAIN_LOSS] > 0


def test_a_step_can_have_a_momentum_of_its_own(tiny: Recipe) -> None:
    torch.manual_seed(0)
    model, plain = Small(), Small()
    plain.load_state_dict(model.state_dict())
    step, meter = Step(model, make_optimizer(model, tiny), tiny, ALONE), Meter(ALONE)
    optimizer = torch.optim.SGD(plain.parameters(), lr=0.1)
    for batch, momentum in zip(batches(3), (0.95, 0.85, 0.9), strict=True):
        step(iter([batch]), 0.1, meter, momentum=momentum)
        optimizer.param_groups[0]["momentum"] = momentum
        optimizer.zero_grad()
        F.cross_entropy(plain(batch.images), batch.labels).backward()
        optimizer.step()

    torch.testing.assert_close(model.norm.weight, plain.norm.weight, rtol=1e-6, atol=1e-7)


def test_the_host_is_two_passes_ahead_of_a_gpu_and_sleeps_until_then(
    tiny: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for CUDA's events: what it asks for is seen, not what a GPU makes of it."""
    waited: list[int] = []
    made: list[bool] = []

    class Event:
        def __init__(self, *, blocking: bool) -> None:
            made.append(blocking)
            self._number = len(made)

        def record(self) -> None:
            pass

        def synchronize(self) -> None:
            waited.append(self._number)

    monkeypatch.setattr("torch.cuda.Event", Event)
    torch.manual_seed(0)
    model = Small()
    step = Step(model, make_optimizer(model, tiny), tiny, ALONE, Execution(batch_per_gpu=4))
    step._on_gpu = True
    halves = [Batch(*(part[at : at + 4] for part in batch[:2])) for batch in batches(3) for at in (0, 4)]
    source = iter(halves)
    for _ in range(3):
        step(source, 0.1, Meter(ALONE))

    assert made == [True] * 12, "forward and backward of six micro-batches, and blocking"
    assert waited == [*range(1, 11)]


def test_cuda_graphs_and_accumulation_are_refused_together(tiny: Recipe) -> None:
    with pytest.raises(ConfigError, match="cannot accumulate the gradients of 2 micro-batches"):
        trained(tiny, batches(1), 1, execution=Execution(compile="cudagraphs", batch_per_gpu=4))


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on the CPU")
@pytest.mark.parametrize("mode", ["default", "cudagraphs"])
def test_a_compiled_network_takes_the_same_steps(tiny: Recipe, mode: CompileMode) -> None:
    given = batches(5)
    eager, _ = trained(tiny, given, 5)
    compiled, _ = trained(tiny, given, 5, execution=Execution(compile=mode))

    torch.testing.assert_close(compiled.state_dict(), eager.state_dict(), rtol=1e-4, atol=1e-5)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch.compile needs a C++ compiler on the CPU")
def test_a_compiled_network_that_exchanges_gradients_takes_the_same_steps(tiny: Recipe) -> None:
    """With a group of one, DistributedDataParallel does all that it does with more, and changes nothing."""
    given = batches(5)
    eager, _ = trained(tiny, given, 5)
    torch.distributed.init_process_group("gloo", rank=0, world_size=1, store=torch.distributed.HashStore())
    try:
        of_two = replace(tiny, global_batch=2 * tiny.global_batch)
        compiled, _ = trained(
            of_two,
            given,
            5,
            world=World(0, 2, torch.device("cpu")),
            execution=Execution(compile="default"),
        )
    finally:
        torch.distributed.destroy_process_group()

    torch.testing.assert_close(compiled.state_dict(), eager.state_dict(), rtol=1e-4, atol=1e-5)
