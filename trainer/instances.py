"""GPU instances of AWS: their hardware, their prices, and the throughput of their volumes.

Nothing heavy is imported here, so that a price list costs no seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.errors import ConfigError

# Throughput of an EBS volume of type gp3 for which no more was ordered.
# Source: docs.aws.amazon.com/ebs/latest/userguide/general-purpose.html
GP3_MB = 125.0  # megabytes per second
GP3_IOPS = 3000.0  # reads per second


@dataclass(frozen=True)
class Instance:
    """Hardware and price of one instance type."""

    gpu: str
    gpus: int
    vcpus: int
    memory_gib: int  # of the host
    gpu_gb_per_second: float  # memory bandwidth of each GPU
    usd_per_hour: float  # on demand, Linux, us-east-1
    nvme_gb: int  # instance store: local disks that are empty after a stop


# Source: AWS's instance pages; NVIDIA's data sheets (GB/s). Prices as listed in 2026 (g5.xlarge: June; p4d, p5:
# November); the others have not changed in public tables since 2024. Check them before money is spent.
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


def find_instance(name: str) -> Instance:
    """The instance type of this name.

    Raises: ConfigError listing the known names.
    """
    if name not in INSTANCES:
        raise ConfigError(f"--instance {name} is not known; known are {', '.join(INSTANCES)}")
    return INSTANCES[name]
