"""How a GPU's memory is shared between torch and the others, and what torch needs for a batch."""

from __future__ import annotations

import torch

from trainer import gpu
from trainer.config import Recipe
from trainer.distributed import World
from trainer.training import choose_precision

GIB = 2**30
# What DALI holds beside its batches: codec buffers, decoded crops, the pipeline of the validation. On an H200 with 16
# threads it held 1.25 GiB in all, 0.75 of them batches of 256 images (docs/performance.md).
OTHERS = GIB
# Training batches that exist at once: two made ahead, one being made, one in use, and up to three used ones, which
# DALI frees when the GPU has reached the end of its queue.
BATCHES = 7
# Activations that ResNet-50's backward pass needs of one image of 224 px in 16 bits, and what its weights, gradients
# and momentum take. tests/performance/test_memory.py asks torch's MemTracker.
IMAGE_AT_224 = 42.1 * 2**20  # bytes
WEIGHTS = 0.3 * GIB  # bytes


def reserve(recipe: Recipe, micro_batch: int, world: World) -> int:
    """Bytes of a GPU's memory that a run leaves to DALI, with `micro_batch` images at a time."""
    itemsize = choose_precision(recipe.precision, world.device).image_dtype.itemsize
    batch = micro_batch * 3 * recipe.preprocess.train_size**2 * itemsize
    return OTHERS + BATCHES * batch


def leave_reserve(recipe: Recipe, micro_batch: int, world: World) -> None:
    """Let torch have no more of this GPU's memory than DALI can do without; nothing on the CPU."""
    if world.device.type == "cuda":
        gpu.limit_memory(world.device, reserve=reserve(recipe, micro_batch, world))


def training_bytes(recipe: Recipe, micro_batch: int) -> float | None:
    """Bytes that training of `micro_batch` images at a time needs in 16 bits; None: known for ResNet-50 only."""
    if recipe.model != "resnet50":
        return None
    return WEIGHTS + micro_batch * IMAGE_AT_224 * (recipe.preprocess.train_size / 224) ** 2


def hopeless(recipe: Recipe, micro_batch: int, world: World) -> bool:
    """Whether so many images at a time are certainly too many for this GPU, so that no time is lost on trying."""
    needed = training_bytes(recipe, micro_batch)
    if needed is None or world.device.type != "cuda":
        return False
    _, total = torch.cuda.mem_get_info(world.device)
    return needed > total
