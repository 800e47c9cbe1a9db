"""Roofline of a device: measured peaks of arithmetic and memory bandwidth, and what a throughput is of them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from trainer.config import Recipe
from trainer.distributed import World
from trainer.model import build
from trainer.performance._estimate import MEGABYTES_AT_224
from trainer.performance._trial import CLASSES
from trainer.training import choose_precision


@dataclass(frozen=True)
class Roofline:
    """Peaks of a device in the recipe's precision, and the shares of them that training reaches."""

    gflop_per_image: float  # forward and backward pass
    matmul_tflops: float  # TFLOP/s of a large matrix product
    flops_share: float  # of `matmul_tflops`, in 0..1
    memory_gb_per_second: float  # reads and writes of a large copy
    # Of `memory_gb_per_second`, above 1 where passes are fused; None: traffic is known for ResNet-50 only.
    bandwidth_share: float | None


def roofline(recipe: Recipe, world: World, images_per_second: float) -> Roofline:
    """Measure the peaks of this device and compare a training throughput with them."""
    from torch.utils.flop_counter import FlopCounterMode  # slow to import

    precision = choose_precision(recipe.precision, world.device)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision.name]
    size = recipe.preprocess.train_size
    model = build(recipe.model, CLASSES).to(world.device)
    with FlopCounterMode(display=False) as counter:
        model(torch.randn(2, 3, size, size, device=world.device)).sum().backward()
    flops = counter.get_total_flops() / 2  # of one of the two images
    megabytes = MEGABYTES_AT_224 * (size / 224) ** 2 * (2 if precision.name == "fp32" else 1)
    peak, bandwidth = _matmul_flops(world.device, dtype), _copy_bandwidth(world.device)
    return Roofline(
        gflop_per_image=flops / 1e9,
        matmul_tflops=peak / 1e12,
        flops_share=images_per_second * flops / peak,
        memory_gb_per_second=bandwidth / 1e9,
        bandwidth_share=images_per_second * megabytes * 1e6 / bandwidth
        if recipe.model == "resnet50"
        else None,
    )


def _matmul_flops(device: torch.device, dtype: torch.dtype) -> float:
    """FLOP/s of a large matrix product."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    return 2 * size**3 / _shortest(lambda: a @ b, device)


def _copy_bandwidth(device: torch.device) -> float:
    """Bytes per second, read and written, of copying a tensor larger than any cache."""
    source = torch.zeros(2**30 if device.type == "cuda" else 2**28, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    return 2 * source.numel() / _shortest(lambda: target.copy_(source), device)


def _shortest(work: Callable[[], object], device: torch.device, *, repeats: int = 10) -> float:
    """Seconds of the fastest repeat, after one that warms up."""
    shortest = float("inf")
    for _ in range(repeats + 1):
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        begun = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        shortest = min(shortest, time.perf_counter() - begun)
    return shortest
