"""The moving average of a network's weights."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch.optim.swa_utils import get_ema_multi_avg_fn

from trainer.config import Recipe


class EMA:
    """An exponential moving average of weights and BatchNorm's statistics.

    As long as there is no decay, and before the first update with one, it is the network itself.

    Source: torch.optim.swa_utils, as torchvision's references use it (references/classification, `--model-ema`). Its
    AveragedModel keeps its count of updates on a device, for which the host would wait at each update.
    """

    def __init__(self, model: torch.nn.Module, recipe: Recipe, *, steps_per_epoch: int) -> None:
        self._model, self._recipe, self._steps_per_epoch = model, recipe, steps_per_epoch
        self._updates = 0
        self._average = copy.deepcopy(model) if recipe.uses_ema else model

    @property
    def module(self) -> torch.nn.Module:
        """The network that is measured, kept and registered."""
        return self._average if self._updates else self._model

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the weights after `step` optimizer steps; the first ones are taken as they are."""
        decay = self._recipe.at((step - 1) // self._steps_per_epoch).ema_decay
        if not decay:
            self._updates = 0  # a later phase begins anew
            return
        if step % self._recipe.ema_steps:
            return
        pairs = list(zip(self._average.state_dict().values(), self._model.state_dict().values(), strict=True))
        blended = [(mean, now) for mean, now in pairs if mean.is_floating_point() and self._updates]
        if blended:
            means, nows = zip(*blended, strict=True)
            get_ema_multi_avg_fn(decay)(means, nows, None)  # type: ignore[no-untyped-call]
        for mean, now in pairs:
            if not (mean.is_floating_point() and self._updates):  # the first weights, and counters
                mean.copy_(now)
        self._updates += 1

    def state_dict(self) -> dict[str, Any]:
        """The average's weights, and how often it was updated."""
        return {"weights": self.module.state_dict(), "updates": self._updates}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state."""
        self._average.load_state_dict(state["weights"])
        self._updates = state["updates"]
