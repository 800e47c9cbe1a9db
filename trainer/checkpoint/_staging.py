"""A run's state, copied to the host's memory while training waits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol, cast

import numpy as np
import torch

Memory = dict[str, torch.Tensor]


class Stateful(Protocol):
    """State of a run that outlives the process."""

    def state_dict(self) -> dict[str, Any]:
        """The state as plain data and tensors; asked on all processes at the same step."""

    def load_state_dict(self, state: dict[str, Any], /) -> Any:
        """Take up a state."""


def copy_to_host(states: Any, memory: Memory, name: str = "") -> Any:
    """`states` with each tensor copied to the host, into `memory` where it has a place for it."""
    if isinstance(states, torch.Tensor):
        place = memory.get(name)
        if place is None or (place.shape, place.dtype) != (states.shape, states.dtype):
            place = torch.empty_like(states, device="cpu", pin_memory=states.is_cuda)
            memory[name] = place
        return place.copy_(states, non_blocking=True)
    if isinstance(states, Mapping):
        return {key: copy_to_host(value, memory, f"{name}/{key}") for key, value in states.items()}
    if isinstance(states, list | tuple):
        return [copy_to_host(value, memory, f"{name}/{index}") for index, value in enumerate(states)]
    return states


def is_finite(tensor: torch.Tensor) -> bool:
    """Whether all its numbers are finite, asked of NumPy.

    torch would ask in as many threads as the training step has, beside which it runs: that slowed a CPU's steps by
    10 to 40 % where OpenMP's threads spin.
    """
    if not tensor.is_floating_point():
        return True
    if tensor.dtype not in (torch.float16, torch.float32, torch.float64):  # NumPy has no others
        return bool(tensor.isfinite().all())
    return bool(np.isfinite(tensor.numpy()).all())


def arrival(device: torch.device) -> Callable[[], bool]:
    """Tells whether the copies are there that were asked of the GPU up to now."""
    if device.type != "cuda":
        return lambda: True
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record()
    return cast(Callable[[], bool], event.query)
