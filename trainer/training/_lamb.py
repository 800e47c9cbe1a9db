"""LAMB, and SGD with a decay of its own: the optimizers of published recipes that torch has not."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch


class Lamb(torch.optim.Optimizer):
    """Adam whose step is made as long as the weights that it changes are: one rate fits all layers of a large batch.

    Groups with a `weight_decay` are adapted so; others (norms, biases) take Adam's step as it is. Clipping of the
    gradients is not part of it: timm's clips to a norm of 1, which is the recipe's `optimizer.clip_norm`.

    Source: You et al. 2019, arXiv:1904.00962, in the form of timm.optim.Lamb, which tests compare it with.
    """

    def __init__(
        self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float = 1e-6
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "step": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Change the weights by their gradients. A closure is not called: the gradients are there."""
        for group in self.param_groups:
            group["step"] += 1  # steps that fp16 skips do not come here
            for weights in group["params"]:
                if weights.grad is not None:
                    self._update(weights, weights.grad, group)

    def _update(self, weights: torch.Tensor, gradient: torch.Tensor, group: dict[str, Any]) -> None:
        state = self.state[weights]
        if not state:
            state["exp_avg"] = torch.zeros_like(weights)
            state["exp_avg_sq"] = torch.zeros_like(weights)
        mean, square = state["exp_avg"], state["exp_avg_sq"]
        (beta1, beta2), steps = group["betas"], group["step"]
        mean.lerp_(gradient, 1 - beta1)
        square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
        spread = (square.sqrt() / (1 - beta2**steps) ** 0.5).add_(group["eps"])
        update = (mean / (1 - beta1**steps)).div_(spread)
        if group["weight_decay"]:
            update.add_(weights, alpha=group["weight_decay"])
            length, of_update = weights.norm(), update.norm()
            # On the device, for the host must not wait: 1 where one of the two is 0.
            update.mul_(torch.where((length > 0) & (of_update > 0), length / of_update, 1.0))
        weights.add_(update, alpha=-group["lr"])


class SGDW(torch.optim.SGD):
    """SGD whose weights shrink by `decoupled_decay` a step at the peak learning rate, and in proportion below it.

    Source: Loshchilov and Hutter 2017, arXiv:1711.05101, in the form of composer.optim.DecoupledSGDW, whose decay is
    not multiplied by the learning rate itself.
    """

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Shrink and change the weights, but for a step that fp16 skips."""
        skipped: torch.Tensor | None = getattr(self, "found_inf", None)  # GradScaler's, for fused optimizers
        for group in self.param_groups:
            decay = group["decoupled_decay"] * group["lr"] / group["peak_lr"]
            if decay:
                kept = 1 - decay if skipped is None else 1 - decay * (1 - skipped)
                torch._foreach_mul_(group["params"], kept)
        super().step(closure)
