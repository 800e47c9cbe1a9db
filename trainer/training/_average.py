"""The moving average of a network's weights."""

from __future__ import annotations

from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from trainer.config import Recipe


class Average:
    """An exponential moving average of weights and BatchNorm's statistics; of none, it is the network itself.

    Source: torch.optim.swa_utils, as torchvision's references use it (references/classification, `--model-ema`).
    """

    def __init__(self, model: torch.nn.Module, recipe: Recipe) -> None:
        self._model, self._every = model, recipe.ema_steps
        self._average: AveragedModel | None = None
        if recipe.ema_decay:
            self._average = AveragedModel(
                model,
                multi_avg_fn=get_ema_multi_avg_fn(recipe.ema_decay),  # type: ignore[no-untyped-call]
                use_buffers=True,
            )

    @property
    def module(self) -> torch.nn.Module:
        """What is measured, kept and registered."""
        return self._average.module if self._average else self._model

    def update(self, step: int) -> None:
        """Take in the weights after `step` optimizer steps; the first ones are taken as they are."""
        if self._average and step % self._every == 0:
            self._average.update_parameters(self._model)

    def state_dict(self) -> dict[str, Any]:
        """The average's weights, and how often it was updated."""
        assert self._average is not None
        return {"weights": self.module.state_dict(), "updates": self._average.n_averaged}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state."""
        assert self._average is not None
        self.module.load_state_dict(state["weights"])
        self._average.n_averaged.copy_(state["updates"])
