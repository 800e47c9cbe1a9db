"""What a recipe will take on a rented machine: hours, dollars, and what binds. Arithmetic on published facts."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import mean

from trainer.config import Recipe
from trainer.errors import ConfigError
from trainer.training import GP3_MB, GP3_READS

IMAGENET = (1_281_167, 50_000)  # training and validation images
JPEG_KB = 110.0  # an ImageNet photo as published; docs/performance.md
FORWARD_SHARE = 1 / 3  # of a training image's time that a validation image takes: no backward pass

# Activation traffic of an image in ResNet-50, in 16 bits, with normalisation, ReLU and addition as passes of their own; and what plain PyTorch has been published to reach
# of the images/s that bandwidth allows: 57 to 61 % on a 3090 (timm), 57 % on an A100 (NVIDIA), 39 % on an H100 (Lambda).
# For a T4 and an A10G nothing is published. See docs/performance.md.
MEGABYTES_AT_224 = 470.0
REACHED = {"T4": 0.59, "A10G": 0.59, "A100": 0.57, "H100": 0.39}
# Images that a core of the CPU in docs/performance.md reads and decodes a second, and what a virtual core is of it:
# half of a core that is half as fast, and a quarter gained by hyper-threading. Modelled, not measured.
DECODED_A_CORE, VIRTUAL = 1170.0, 0.3


@dataclass(frozen=True)
class Instance:
    """A machine for rent."""

    gpu: str
    gpus: int
    vcpus: int
    memory_gib: int
    gpu_gb_per_second: float  # of each GPU's memory
    usd_per_hour: float  # on demand, Linux, us-east-1
    nvme_gb: int  # its own disks, empty after a stop


# Source: AWS's instance pages; NVIDIA's data sheets (GB/s). Prices as listed in 2026 (g5.xlarge: June; p4d, p5:
# November); the others have not changed in public tables since 2024. All are to be checked before money is spent.
INSTANCES = {
    "g4dn.xlarge": Instance("T4", 1, 4, 16, 320, 0.526, 125),
    "g4dn.2xlarge": Instance("T4", 1, 8, 32, 320, 0.752, 225),
    "g4dn.12xlarge": Instance("T4", 4, 48, 192, 320, 3.912, 900),
    "g5.xlarge": Instance("A10G", 1, 4, 16, 600, 1.006, 250),
    "g5.2xlarge": Instance("A10G", 1, 8, 32, 600, 1.212, 450),
    "g5.12xlarge": Instance("A10G", 4, 48, 192, 600, 5.672, 3800),
    "g5.48xlarge": Instance("A10G", 8, 192, 768, 600, 16.288, 7600),
    "p4d.24xlarge": Instance("A100", 8, 96, 1152, 1555, 21.957642, 8000),
    "p5.48xlarge": Instance("H100", 8, 192, 2048, 3350, 55.04, 30400),
}


@dataclass(frozen=True)
class Estimate:
    """What a run will take."""

    images_per_second: float  # of training, all GPUs together, on average over the run
    binds: str  # GPU, CPU decode, disk throughput or disk IOPS
    limits: dict[str, float]  # images/s that each of these allows
    hours: float  # epochs and evaluations, from the first step to the last
    usd: float
    disk_gb: float  # the images
    measured: bool  # whether images/s were given; a prediction otherwise


def estimate(
    recipe: Recipe,
    instance: Instance,
    *,
    images: tuple[int, int] = IMAGENET,
    kilobytes: float = JPEG_KB,
    gpu_images_per_second: float | None = None,
    disk_mb: float = GP3_MB,
    disk_reads: float = GP3_READS,
    usd_per_hour: float | None = None,
) -> Estimate:
    """What `recipe` will take on `instance`.

    Args:
        recipe: what to train.
        instance: on which machine.
        images: training and validation images.
        kilobytes: of a stored image, on average.
        gpu_images_per_second: of one GPU at the recipe's final size, as `trainer bench train` measures it without
            JPEGs; predicted if None.
        disk_mb: megabytes a second that the volume gives.
        disk_reads: reads a second that it gives.
        usd_per_hour: what the machine costs; on demand if None.
    """
    # Work grows with the pixels, so that smaller crops at the start, or larger ones in validation, count accordingly.
    final = recipe.images.train_size**2
    training = mean(recipe.train_size(epoch) ** 2 for epoch in range(recipe.epochs)) / final
    validation = FORWARD_SHARE * recipe.images.val_size**2 / final
    megabytes = MEGABYTES_AT_224 * final / 224**2
    one = gpu_images_per_second or REACHED[instance.gpu] * instance.gpu_gb_per_second * 1000 / megabytes
    one /= training
    limits = {"GPU": one * instance.gpus, "CPU decode": instance.vcpus * VIRTUAL * DECODED_A_CORE}
    disk_gb = sum(images) * kilobytes / 1e6
    if disk_gb > 0.8 * instance.memory_gib * 1.074:  # else all of it stays in memory after the first epoch
        limits |= {"disk throughput": disk_mb * 1000 / kilobytes, "disk IOPS": disk_reads}
    binds = min(limits, key=lambda name: limits[name])
    rate = limits[binds]
    seconds = recipe.epochs * (images[0] + images[1] * validation / training) / rate
    hours = seconds / 3600
    price = instance.usd_per_hour if usd_per_hour is None else usd_per_hour
    return Estimate(
        rate, binds, limits, hours, hours * price, disk_gb, measured=gpu_images_per_second is not None
    )


def find_instance(name: str) -> Instance:
    """An instance by AWS's name for it.

    Raises: ConfigError naming those that are known.
    """
    if name not in INSTANCES:
        raise ConfigError(f"--instance {name} is not known; known are {', '.join(INSTANCES)}")
    return INSTANCES[name]
