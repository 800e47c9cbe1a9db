"""What torchrun tells a process about its place in the environment; read here and nowhere else, without torch.

All of it or nothing: a RANK that another tool left behind is no place among processes.
"""

from __future__ import annotations

import os

from trainer.errors import ConfigError

LAUNCHED = (
    "TRAINER_LAUNCHED"  # set in processes that `trainer` itself started, which leave the last word to it
)
IN_HAND = "TRAINER_IN_HAND"  # the folder in which a process notes the files that its decoders have in hand
RANK = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")  # each makes a process one of several
PLACE = (*RANK, "MASTER_ADDR", "MASTER_PORT")  # these two alone are often set for a whole cluster
OURS = (*PLACE, LAUNCHED)  # what a child that is no rank must not see


def has_rank() -> bool:
    """Whether the environment calls this process one of several, be it half a place only."""
    return any(name in os.environ for name in RANK)


def under_torchrun() -> bool:
    """Whether torchrun started this process, ours or the user's own.

    Raises: ConfigError if the environment says only half of it.
    """
    there = [name for name in RANK if name in os.environ]
    if not there:
        return False
    if missing := [name for name in PLACE if name not in os.environ]:
        raise ConfigError(
            f"the environment has {', '.join(there)} but not {', '.join(missing)}, so no torchrun has made it; unset "
            f"{', '.join(there)}, or start this under torchrun"
        )
    for name in RANK:
        if not os.environ[name].isdecimal():
            raise ConfigError(
                f"the environment says {name}={os.environ[name]!r}, which is no number; unset {', '.join(RANK)}"
            )
    return True


def require_nproc(asked: int | None) -> None:
    """Refuse a --nproc-per-node that torchrun's environment contradicts. Raises: ConfigError."""
    if asked and under_torchrun() and not launched_by_trainer() and asked != local_world_size():
        raise ConfigError(
            f"--nproc-per-node {asked} was asked for and torchrun's environment says {local_world_size()} on this "
            "machine; leave the option out under torchrun, or unset RANK and WORLD_SIZE"
        )


def launched_by_trainer() -> bool:
    """Whether `trainer` started this process as one of several."""
    return LAUNCHED in os.environ and under_torchrun()


def rank() -> int:
    """Number of this process among all, from 0."""
    return _number("RANK", 0)


def world_size() -> int:
    """Number of processes on all machines."""
    return _number("WORLD_SIZE", 1)


def local_rank() -> int:
    """Number of this process among those of its machine, from 0."""
    return _number("LOCAL_RANK", 0)


def local_world_size() -> int:
    """Number of processes on this machine."""
    return _number("LOCAL_WORLD_SIZE", 1)


def machines() -> int:
    """Number of machines, each with as many processes as this one."""
    return world_size() // local_world_size()


def _number(name: str, alone: int) -> int:
    return int(os.environ[name]) if under_torchrun() else alone
