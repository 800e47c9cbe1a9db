"""Networks, batches and steps that several tests of training share."""

from __future__ import annotations

from typing import Any

import torch

from tests.conftest import ALONE
from trainer.config import Execution, Recipe
from trainer.dataloader import Batch
from trainer.distributed import World
from trainer.training import Meter, Step, make_optimizer
from trainer.training._precision import LossScaler


class Small(torch.nn.Module):
    """A convolution and a classifier: enough to have decayed and undecayed parameters."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 4, 3)
        self.norm: torch.nn.Module = torch.nn.BatchNorm2d(4)
        self.classifier = torch.nn.Linear(4, 3)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.norm(self.convolution(images)).mean(dim=(2, 3)))


def batches(count: int, size: int = 8) -> list[Batch]:
    torch.manual_seed(1)
    return [Batch(torch.randn(size, 3, 8, 8), torch.randint(3, (size,))) for _ in range(count)]


def trained(
    recipe: Recipe,
    given: list[Batch],
    steps: int,
    *,
    lr: float = 0.1,
    world: World = ALONE,
    execution: Execution = Execution(),
    network: type[Small] | None = None,
) -> tuple[Small, Meter]:
    """A small network after so many steps on these batches, and what they add up to."""
    torch.manual_seed(0)
    model = (network or Small)()
    optimizer = make_optimizer(model, recipe)
    step, meter = Step(model, optimizer, recipe, world, execution), Meter(world)
    step.warm_up([8], 8)
    source = iter(given)
    for _ in range(steps):
        step(source, lr, meter)
        meter.step_done()
    return model, meter


class Overflowing(Small):
    """Has gradients that are infinite where an image is very bright; its loss stays a number."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        answer = super().forward(images)
        if answer.requires_grad and images.max() > 100:
            answer.register_hook(lambda gradient: gradient * torch.inf)
        return answer


def in_fp16(
    recipe: Recipe,
    given: list[Batch],
    meter: Meter | None = None,
    *,
    momentum: float | None = None,
    **scaling: Any,
) -> tuple[list[torch.Tensor], Meter]:
    """Steps on `given`, scaled as in fp16 on a GPU, with the weights before and after each."""
    torch.manual_seed(0)
    model, meter = Overflowing(), meter or Meter(ALONE)
    step = Step(model, make_optimizer(model, recipe), recipe, ALONE)
    step.scaler = LossScaler("cpu", **scaling)
    weights = [model.classifier.weight.detach().clone()]
    for batch in given:
        step(iter([batch]), 0.1, meter, momentum=momentum)
        meter.step_done()
        weights.append(model.classifier.weight.detach().clone())
    return weights, meter


def bright(batch: Batch) -> Batch:
    return Batch(batch.images + 1000, batch.labels)
