"""What must be said to a GPU before its first use, and what its driver must be able to do."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch

from trainer.errors import DeviceError

# Linux driver that a CUDA major version needs at least.
# Source: docs.nvidia.com/cuda/cuda-toolkit-release-notes, "CUDA Toolkit and Minimum Required Driver Version".
DRIVERS = {12: "R525", 13: "R580"}
_BLOCKING_SYNC = 4  # CU_CTX_SCHED_BLOCKING_SYNC in cuda.h
_COMPUTE_CAPABILITY = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, …_MINOR


def require_usable_gpus() -> None:
    """Check, without using one, that this PyTorch can compute on all GPUs of this machine.

    Raises: DeviceError that says what is missing: a GPU, its driver, a newer driver, or a newer GPU.
    """
    built_for = torch.version.cuda
    if built_for is None:
        raise DeviceError(
            f"PyTorch {torch.__version__} is built without CUDA; use the image of docker/trainer, or --device cpu"
        )
    known = driver_cuda()
    if known is None:
        raise DeviceError(
            "no NVIDIA driver can be reached here; check `nvidia-smi` on the machine and the NVIDIA Container Toolkit, "
            "or rehearse on the CPU with --device cpu (Compose: COMPOSE_FILE=compose.yaml:compose.cpu.yaml in .env)"
        )
    major = int(built_for.split(".")[0])
    if known[0] < major:
        raise DeviceError(
            f"the NVIDIA driver knows CUDA {known[0]}.{known[1]}, and this PyTorch is built for CUDA {built_for}: "
            f"install driver {DRIVERS.get(major, 'for it')} or newer on the machine"
        )
    if not torch.cuda.is_available():
        raise DeviceError(
            "the NVIDIA driver answers, but no GPU can be used here; check `nvidia-smi`, CUDA_VISIBLE_DEVICES, and "
            "that the container was given GPUs (Compose: the trainer service asks for all), or say --device cpu"
        )
    for index in range(torch.cuda.device_count()):
        capability, built = _capability(index), torch.cuda.get_arch_list()
        if capability and not _has_code(capability, built):
            raise DeviceError(
                f"GPU {index} has compute capability {capability[0]}.{capability[1]}, for which this PyTorch "
                f"(CUDA {built_for}) holds no code ({', '.join(built)}); rent a newer one, such as a T4 (g4dn) or an "
                "A10G (g5), or say --device cpu"
            )


def driver_cuda() -> tuple[int, int] | None:
    """CUDA version, major and minor, that the driver knows; None if there is no driver."""
    cuda = _libcuda()
    version = ctypes.c_int()
    if cuda is None or cuda.cuDriverGetVersion(ctypes.byref(version)):
        return None
    return version.value // 1000, version.value % 1000 // 10


def set_up(device: torch.device) -> None:
    """Make the settings of this process's GPU that count only before its first use, and make it the current one.

    Whoever waits for the GPU sleeps. CUDA's default is to spin, and somebody always waits here: the host, at most two
    micro-batches ahead of the GPU, and DALI's thread that frees used batches after `cudaDeviceSynchronize`. These are
    two of the four virtual cores of a g5.xlarge.

    cuDNN times its algorithms for each shape instead of trusting its heuristics. That must be said before the first
    convolution: torch keeps the algorithm of a shape, however it was found (aten/src/ATen/native/cudnn/Conv_v8.cpp).

    Source: CUDA driver API, cuDevicePrimaryCtxSetFlags.
    """
    cuda, handle = _libcuda(), ctypes.c_int()
    # Not worth an end: without it processors are wasted, nothing else.
    if cuda and not cuda.cuInit(0) and not cuda.cuDeviceGet(ctypes.byref(handle), device.index):
        cuda.cuDevicePrimaryCtxSetFlags_v2(handle, _BLOCKING_SYNC)
    torch.backends.cudnn.benchmark = True
    torch.cuda.set_device(device)


def limit_memory(device: torch.device, *, reserve: int) -> None:
    """Leave `reserve` bytes to others than torch, of the memory that was free when this was first called.

    Above that torch raises OutOfMemoryError after it has emptied its own cache, where DALI would find no memory, which
    ends the process.
    """
    available, total = _available(device)
    limit = (available - reserve) / total
    torch.cuda.set_per_process_memory_fraction(min(1.0, max(0.01, limit)), device)


@cache
def _available(device: torch.device) -> tuple[int, int]:
    """Bytes that torch could have, and the GPU's; asked once, for what DALI has taken later is its reserve."""
    free, total = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device), total


def gpu_utilization() -> float | None:
    """Share of the newest moments in which this process's GPU was at work, by its driver; None where none is in use."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return None
    try:
        return torch.cuda.utilization() / 100
    except (
        Exception
    ):  # NVML's errors are no class of their own, and no run ends because of a number on the terminal
        return None


def _has_code(capability: tuple[int, int], built: Sequence[str]) -> bool:
    """Whether binaries or PTX for `built`, such as sm_86 or compute_90, run on a GPU of this capability."""
    for name in built:
        kind, _, number = name.partition("_")
        version = int(number[:-1]), int(number[-1])
        if kind == "sm" and version[0] == capability[0] and version[1] <= capability[1]:
            return True
        if kind == "compute" and version <= capability:
            return True
    return False


def _capability(index: int) -> tuple[int, int] | None:
    """Compute capability of a GPU, asked of the driver: torch would begin to use the GPU."""
    cuda, handle, parts = _libcuda(), ctypes.c_int(), (ctypes.c_int(), ctypes.c_int())
    if cuda is None or cuda.cuInit(0) or cuda.cuDeviceGet(ctypes.byref(handle), index):
        return None
    for attribute, part in zip(_COMPUTE_CAPABILITY, parts, strict=True):
        if cuda.cuDeviceGetAttribute(ctypes.byref(part), attribute, handle):
            return None
    return parts[0].value, parts[1].value


def _libcuda() -> Any:
    try:
        return ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
