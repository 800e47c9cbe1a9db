"""Predicted hours, dollars and bottleneck of a recipe on a rented machine: arithmetic on published figures.

Nothing heavy is imported here: `trainer estimate` answers at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean

from trainer.config import Recipe
from trainer.instances import GP3_IOPS, GP3_MB, Instance

IMAGENET = (1_281_167, 50_000)  # training and validation images
JPEG_KB = 110.0  # mean size of an ImageNet photo as published; docs/performance.md
FORWARD_SHARE = 1 / 3  # time of a validation image, which has no backward pass, to that of a training image

# Memory traffic of ResNet-50's activations for one image, in 16 bits, with normalisation, ReLU and addition as
# separate passes.
MEGABYTES_AT_224 = 470.0
# Throughput that has been reached, as a share of what the data sheet's memory bandwidth allows: by users in PyTorch 361
# images/s on a T4, 810 on an A10G and 358 on each of four L4, by NVIDIA 2,470 on an A100; by this code 5,050 from
# JPEGs on an H100, and so L40S: MXNet reached all that bandwidth allows on both. See docs/performance.md.
BANDWIDTH_SHARE = {"T4": 0.53, "A10G": 0.634, "L4": 0.56, "L40S": 0.708, "A100": 0.57, "H100": 0.708}
# Images that a core of the CPU in docs/performance.md reads and decodes per second, and a vCPU as a share of that core:
# half of a core that is half as fast, plus a quarter by hyper-threading. Modelled, not measured.
DECODED_PER_CORE, VCPU_SHARE = 1170.0, 0.3
CACHE_SHARE = 0.8  # of the host's memory, that the page cache can fill with images


@dataclass(frozen=True)
class Estimate:
    """Prediction for one run on one machine."""

    images_per_second: float  # training throughput of all GPUs together, mean over the run
    bottleneck: str  # GPU, CPU decode, disk throughput or disk IOPS
    limits: dict[str, float]  # images/s that each of these allows
    hours: float  # of all epochs and evaluations, from the first step to the last
    usd: float
    disk_gb: float  # size of the images
    measured: bool  # whether the GPU's throughput was given; a prediction otherwise


def estimate(
    recipe: Recipe,
    instance: Instance,
    *,
    images: tuple[int, int] = IMAGENET,
    kilobytes: float = JPEG_KB,
    gpu_images_per_second: float | None = None,
    disk_mb: float = GP3_MB,
    disk_iops: float = GP3_IOPS,
    usd_per_hour: float | None = None,
) -> Estimate:
    """Predict how long `recipe` takes on `instance`, what that costs, and which part of the machine limits it.

    Args:
        recipe: model, epochs and image sizes.
        instance: hardware and price of the machine.
        images: number of training images, and of validation images.
        kilobytes: mean size of a stored image.
        gpu_images_per_second: throughput of one GPU at the recipe's largest image size, as `trainer bench train`
            measures it without JPEGs; None: predicted from the GPU's memory bandwidth.
        disk_mb: throughput of the volume, in megabytes per second.
        disk_iops: reads per second of the volume.
        usd_per_hour: price of the machine; None: on demand.
    """
    # Time is taken as proportional to pixels: smaller crops early in the run and larger ones in validation count so.
    full_pixels = recipe.full_res**2
    epochs = range(recipe.epochs)
    train_pixels = mean(recipe.train_size(epoch) ** 2 for epoch in epochs) / full_pixels
    val_pixels = FORWARD_SHARE * recipe.preprocess.val_size**2 / full_pixels
    megabytes = MEGABYTES_AT_224 * full_pixels / 224**2
    predicted = BANDWIDTH_SHARE[instance.gpu] * instance.gpu_gb_per_second * 1000 / megabytes
    per_gpu = (gpu_images_per_second or predicted) / train_pixels
    limits = {
        "GPU": per_gpu * instance.gpus,
        "CPU decode": instance.vcpus * VCPU_SHARE * DECODED_PER_CORE,
    }
    disk_gb = sum(images) * kilobytes / 1e6
    if disk_gb > CACHE_SHARE * instance.memory_gib * 1.074:  # else the disk is read in the first epoch only
        limits |= {"disk throughput": disk_mb * 1000 / kilobytes, "disk IOPS": disk_iops}
    bottleneck = min(limits, key=lambda name: limits[name])
    throughput = limits[bottleneck]
    seconds = recipe.epochs * (images[0] + images[1] * val_pixels / train_pixels) / throughput
    hours = seconds / 3600
    price = instance.usd_per_hour if usd_per_hour is None else usd_per_hour
    return Estimate(
        images_per_second=throughput,
        bottleneck=bottleneck,
        limits=limits,
        hours=hours,
        usd=hours * price,
        disk_gb=disk_gb,
        measured=gpu_images_per_second is not None,
    )
