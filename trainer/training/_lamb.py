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

    _step_supports_amp_scaling = (
        True  # GradScaler's word for: it need not read whether to skip a step, which waits
    )

    def __init__(
        self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float = 1e-6
    ) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": 0.0, "step": 0})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Change the weights by their gradients, but for a step that fp16 skips. A closure is not called."""
        for group in self.param_groups:
            weights = [one for one in group["params"] if one.grad is not None]
            if weights:
                self._update(weights, [one.grad for one in weights], group)

    def _update(
        self, weights: list[torch.Tensor], gradients: list[torch.Tensor], group: dict[str, Any]
    ) -> None:
        taken: torch.Tensor | float = 1.0  # 0 where fp16 skips the step: then all below changes nothing
        scale: torch.Tensor | None = getattr(
            self, "grad_scale", None
        )  # None: the gradients are not scaled any more
        if scale is not None:
            torch._foreach_div_(gradients, scale)
        found_inf: torch.Tensor | None = getattr(self, "found_inf", None)  # GradScaler's, as `grad_scale` is
        if found_inf is not None:
            skipped = found_inf != 0
            taken = 1 - skipped.float()
            for gradient in gradients:
                gradient.masked_fill_(skipped, 0.0)  # 0 x inf is no number
        # In float64, for 1 - 0.999 is inexact in float32. A checkpoint may have it on the CPU.
        steps = torch.as_tensor(group["step"], dtype=torch.float64, device=weights[0].device) + taken
        group["step"] = steps

        for one in weights:
            if not self.state[one]:
                self.state[one] |= {"exp_avg": torch.zeros_like(one), "exp_avg_sq": torch.zeros_like(one)}
        means = [self.state[one]["exp_avg"] for one in weights]
        squares = [self.state[one]["exp_avg_sq"] for one in weights]
        beta1, beta2 = group["betas"]
        torch._foreach_mul_(means, beta1**taken)
        torch._foreach_add_(means, gradients, alpha=1 - beta1)
        torch._foreach_mul_(squares, beta2**taken)
        torch._foreach_addcmul_(squares, gradients, gradients, value=1 - beta2)

        done = steps.clamp(min=1)
        spreads = torch._foreach_sqrt(squares)
        torch._foreach_div_(spreads, (1 - beta2**done).sqrt().float())
        torch._foreach_add_(spreads, group["eps"])
        updates = torch._foreach_div(means, (1 - beta1**done).float())
        torch._foreach_div_(updates, spreads)
        if group["weight_decay"]:
            torch._foreach_add_(updates, weights, alpha=group["weight_decay"])
            lengths, of_updates = (torch.stack(torch._foreach_norm(each)) for each in (weights, updates))
            # On the device, for the host must not wait: 1 where one of the two is 0.
            adapted = torch.where((lengths > 0) & (of_updates > 0), lengths / of_updates, 1.0)
            torch._foreach_mul_(updates, adapted.unbind())
        torch._foreach_mul_(updates, -group["lr"] * taken)
        torch._foreach_add_(weights, updates)


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
