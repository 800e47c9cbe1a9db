"""The processes that train together, and the device each of them drives."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar, cast

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from trainer import ranks
from trainer.config import DeviceChoice
from trainer.errors import DeviceError, ProcessLost, TrainerError
from trainer.gpu import driver_cuda, require_usable_gpus, set_up

TIMEOUT = 600.0  # seconds
ROLL_CALL = 5.0  # seconds
# Gloo's and NCCL's words for a process that does not come, and for one that has gone.
_LATE = re.compile("timed out|timeout", re.IGNORECASE)
_GONE = re.compile("timed out|timeout|closed by peer|reset by peer|broken pipe|gloo|nccl", re.IGNORECASE)

T = TypeVar("T")


@dataclass(frozen=True)
class World:
    """One process's place among all: `rank` of `size`, driving `device`."""

    rank: int
    size: int
    device: torch.device
    cpu_group: dist.ProcessGroup | None = None  # the processes themselves, without their GPUs; None if alone
    store: Store | None = None  # what they can write to each other, even while one is stuck

    @property
    def is_main(self) -> bool:
        """Whether this process speaks for all: it alone writes files and prints."""
        return self.rank == 0

    @property
    def is_local_main(self) -> bool:
        """Whether this process speaks for its machine."""
        return ranks.local_rank() == 0

    def all_reduce_sum(self, values: torch.Tensor) -> torch.Tensor:
        """Sum of `values` over all processes, on all of them."""
        if self.size > 1:
            dist.all_reduce(values)
        return values

    def all_gather(self, values: torch.Tensor) -> torch.Tensor:
        """What each process has in `values`, as (size, *values.shape), on all of them."""
        if self.size == 1:
            return values[None].clone()
        each = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(each, values)
        return torch.stack(each)

    def broadcast(self, tensors: Iterable[torch.Tensor]) -> None:
        """Give every process what the first one has in `tensors`."""
        if self.size > 1:
            for tensor in tensors:
                dist.broadcast(tensor, src=0)

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """Which flags are set on at least one process; the same answer on all. No GPU is waited for."""
        if self.size == 1:
            return flags
        votes = torch.tensor(flags, dtype=torch.uint8)
        dist.all_reduce(votes, dist.ReduceOp.MAX, group=self.cpu_group)
        return tuple(bool(vote) for vote in votes)

    def broadcast_from_rank0(self, make: Callable[[], T]) -> T:
        """What `make` answers on the first process, which alone calls it; what it raises, on all alike."""
        if self.size == 1:
            return make()
        answer: list[Any] = [None, None]
        if self.is_main:
            try:
                answer[0] = make()
            except TrainerError as error:
                answer[1] = error
        dist.broadcast_object_list(answer, src=0, group=self.cpu_group)
        if answer[1] is not None:
            raise answer[1]
        return cast(T, answer[0])

    @contextmanager
    def detect_lost_ranks(self) -> Iterator[None]:
        """Say what is wrong when the processes cannot go on together, and which of them are stuck.

        Raises: ProcessLost in those that are not.
        """
        try:
            yield
        except RuntimeError as error:
            if self.store is None or not (isinstance(error, dist.DistError) or _GONE.search(str(error))):
                raise
            if not _LATE.search(str(error)):
                raise ProcessLost(
                    f"process {self.rank} cannot go on, for another one has ended; start again to go on "
                    f"from the last checkpoint ({str(error).strip().partition(chr(10))[0][:200]})"
                ) from error
            # Whoever still runs waits as well, and comes here at about the same time.
            self.store.set(f"waits/{self.rank}", "yes")
            time.sleep(ROLL_CALL)
            stuck = [str(rank) for rank in range(self.size) if not self.store.check([f"waits/{rank}"])]
            raise ProcessLost(
                f"process {', '.join(stuck) or 'unknown'} of 0 to {self.size - 1} is stuck: the others have waited "
                "for it as long as --timeout allows; look at its machine, disk and GPU, and start again to go on "
                "from the last checkpoint"
            ) from error


def choose_device(choice: DeviceChoice) -> Literal["cpu", "cuda"]:
    """Turn `auto` into the GPU where there is one.

    Raises: DeviceError if a GPU is demanded, or its driver is there, and it cannot be used.
    """
    # A GPU that is there and cannot be used is no reason to train for weeks on the CPU.
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES") in ("", "-1")
    if choice == "cuda" or (choice == "auto" and not hidden and driver_cuda()):
        require_usable_gpus()
        return "cuda"
    return "cpu"


def choose_nproc(device: Literal["cpu", "cuda"], asked: int | None) -> int:
    """Number of processes: one for each GPU, or one on the CPU, unless asked otherwise.

    Raises: DeviceError if there are fewer GPUs than processes.
    """
    if device == "cpu":
        return asked or 1
    gpus = torch.cuda.device_count()
    if asked and asked > gpus:
        raise DeviceError(
            f"--nproc-per-node {asked} needs {asked} GPUs and there are {gpus}; use --nproc-per-node {gpus}"
        )
    return asked or gpus


@contextmanager
def join_world(choice: DeviceChoice, *, timeout: float = TIMEOUT) -> Iterator[World]:
    """Take this process's place: torchrun's environment says which; alone without it.

    Args:
        choice: the device, or `auto`.
        timeout: seconds that a process waits for another before it calls it stuck.
    """
    rank, size = ranks.rank(), ranks.world_size()
    kind = choose_device(choice)
    device = torch.device("cpu")
    if kind == "cuda":
        device = torch.device("cuda", ranks.local_rank())
        set_up(device)
    if size == 1:
        yield World(rank, size, device)
        return
    # NCCL asks the driver for host memory in a way that crashes drivers before R595 where GPUs have no peer access
    # (NVIDIA/nccl issues 1838 and 2106), and that differs between processes where only some get it (2190).
    os.environ.setdefault("NCCL_CUMEM_HOST_ENABLE", "0")
    store, _, _ = next(rendezvous("env://"))
    limit = timedelta(seconds=timeout)
    if kind == "cuda":
        # NCCL's own watchdog ends a process without a word; it comes after ours.
        dist.init_process_group(
            "nccl", store=store, rank=rank, world_size=size, timeout=2 * limit, device_id=device
        )
        cpu_group: Any = dist.new_group(backend="gloo", timeout=limit)
    else:
        dist.init_process_group("gloo", store=store, rank=rank, world_size=size, timeout=limit)
        cpu_group = dist.group.WORLD
    yield World(rank, size, device, cpu_group, PrefixStore("roll-call", store))
    # Only where all went well: NCCL waits here for what it was asked to do, which never ends if another process failed.
    dist.destroy_process_group()
