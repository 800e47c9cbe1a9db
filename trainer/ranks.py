"""What torchrun tells a process about its place in the environment; read here and nowhere else, without torch."""

from __future__ import annotations

import os

LAUNCHED = (
    "TRAINER_LAUNCHED"  # set in processes that `trainer` itself started, which leave the last word to it
)
IN_HAND = "TRAINER_IN_HAND"  # the folder in which a process notes the files that its decoders have in hand


def under_torchrun() -> bool:
    """Whether torchrun started this process, ours or the user's own."""
    return "RANK" in os.environ


def launched_by_trainer() -> bool:
    """Whether `trainer` started this process as one of several."""
    return LAUNCHED in os.environ


def rank() -> int:
    """Number of this process among all, from 0."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Number of processes on all machines."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """Number of this process among those of its machine, from 0."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    """Number of processes on this machine."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
