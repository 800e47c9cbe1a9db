"""The processes that train together, and the device each of them drives."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist

from trainer.errors import DeviceError

DeviceChoice = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class World:
    """One process's place among all: `rank` of `size`, driving `device`."""

    rank: int
    size: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process speaks for all: it alone writes files and prints."""
        return self.rank == 0

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """Sum of `values` over all processes, on all of them."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def any(self, flag: bool) -> bool:
        """Whether `flag` is set on at least one process; the same answer on all of them."""
        return bool(self.total(torch.tensor(int(flag), device=self.device)).item())

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.size > 1:
            dist.barrier()


def choose_device(choice: DeviceChoice) -> Literal["cpu", "cuda"]:
    """Turn `auto` into the GPU where there is one.

    Raises: DeviceError if a GPU is demanded and none answers.
    """
    if choice == "cuda" and not torch.cuda.is_available():
        raise DeviceError(
            "no NVIDIA GPU can be used here (--device cuda); check `nvidia-smi` and the NVIDIA Container "
            "Toolkit, or rehearse on the CPU with --device cpu (Compose: -f compose.yaml -f compose.cpu.yaml)"
        )
    if choice == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return choice


def choose_processes(device: Literal["cpu", "cuda"], asked: int | None) -> int:
    """Number of processes: one for each GPU, or one on the CPU, unless asked otherwise.

    Raises: DeviceError if there are fewer GPUs than processes.
    """
    if device == "cpu":
        return asked or 1
    gpus = torch.cuda.device_count()
    if asked and asked > gpus:
        raise DeviceError(
            f"--processes {asked} needs {asked} GPUs and there are {gpus}; use --processes {gpus}"
        )
    return asked or gpus


@contextmanager
def join_world(choice: DeviceChoice) -> Iterator[World]:
    """Take this process's place: torchrun's environment says which; alone without it."""
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    kind = choose_device(choice)
    device = torch.device("cpu")
    if kind == "cuda":
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    if size == 1:
        yield World(rank, size, device)
        return
    dist.init_process_group(
        "nccl" if kind == "cuda" else "gloo", device_id=device if kind == "cuda" else None
    )
    try:
        yield World(rank, size, device)
    finally:
        dist.destroy_process_group()
