"""The machine and the library versions that a measurement belongs to."""

from __future__ import annotations

import os
import platform
from dataclasses import dataclass

import torch

from trainer.cpu import cpu_name
from trainer.performance._dali_reader import dali_version


@dataclass(frozen=True)
class Environment:
    """Hardware and versions of one measurement."""

    device: str  # model name of the GPU, or of the CPU
    cpu_cores: int  # that this process may use
    torch: str
    dali: str
    python: str


def environment(device: torch.device) -> Environment:
    """The environment of this process, with `device` as the one that is measured."""
    return Environment(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else cpu_name(),
        cpu_cores=len(os.sched_getaffinity(0)),
        torch=torch.__version__,
        dali=dali_version(),
        python=platform.python_version(),
    )
