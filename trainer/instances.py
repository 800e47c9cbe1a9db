"""GPU instances of AWS: their hardware, prices, quotas, and the throughput of their volumes.

Nothing heavy is imported here, so that a price list costs no seconds.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.errors import ConfigError

# Throughput of an EBS volume of type gp3 for which no more was ordered.
# Source: docs.aws.amazon.com/ebs/latest/userguide/general-purpose.html
GP3_MB = 125.0  # megabytes per second
GP3_IOPS = 3000.0  # reads per second

# What a spot instance costs, as a share of the price on demand, where nobody says what it is now: the author of
# cr21/Resnet50-Imagenet1K paid $0.97 an hour for a g5.8xlarge. In SkyPilot's catalogue of AWS
# (skypilot-org/skypilot-catalog, v9, commit 3e9a175) g4dn.8xlarge and g4dn.16xlarge stand at 21 to 36 % in us-east-1.
SPOT_SHARE = 0.4

# NVIDIA's data sheets; A100 with 40 GB.
GPU_MEMORY_GB_PER_SECOND = {"T4": 320, "A10G": 600, "L4": 300, "L40S": 864, "A100": 1555, "H100": 3350}


@dataclass(frozen=True)
class Instance:
    """Hardware and price of one instance type."""

    gpu: str
    gpus: int
    vcpus: int
    memory_gib: int  # of the host
    nvme_gb: int  # instance store: local disks that are empty after a stop
    usd_per_hour: float  # on demand, Linux, us-east-1

    @property
    def gpu_gb_per_second(self) -> float:
        """Memory bandwidth of each GPU."""
        return GPU_MEMORY_GB_PER_SECOND[self.gpu]

    @property
    def quota(self) -> str:
        """Whose vCPUs AWS counts: "Running On-Demand … instances" and "All … Spot Instance Requests" are two quotas.

        Spot instances of P have two more by name: "All P4, P3 and P2 …" and "All P5 …".

        Source: docs.aws.amazon.com/AWSEC2/latest/UserGuide, ec2-on-demand-instances.html and using-spot-limits.html.
        """
        return "P" if self.gpu in ("A100", "H100") else "G and VT"


# Sources: prices of us-east-1 as instances.vantage.sh had them on 2026-01-21 (tsaol/aws-gpu on GitHub,
# data/all_gpu_instances.js); vCPUs, memory, GPUs and disks as AWS's DescribeInstanceTypes answers (in moto 5.2.5).
# Check a price before money is spent.
INSTANCES = {
    "g4dn.xlarge": Instance("T4", 1, 4, 16, 125, 0.526),
    "g4dn.2xlarge": Instance("T4", 1, 8, 32, 225, 0.752),
    "g4dn.4xlarge": Instance("T4", 1, 16, 64, 225, 1.204),
    "g4dn.8xlarge": Instance("T4", 1, 32, 128, 900, 2.176),
    "g4dn.12xlarge": Instance("T4", 4, 48, 192, 900, 3.912),
    "g4dn.16xlarge": Instance("T4", 1, 64, 256, 900, 4.352),
    "g4dn.metal": Instance("T4", 8, 96, 384, 1800, 7.824),
    "g5.xlarge": Instance("A10G", 1, 4, 16, 250, 1.006),
    "g5.2xlarge": Instance("A10G", 1, 8, 32, 450, 1.212),
    "g5.4xlarge": Instance("A10G", 1, 16, 64, 600, 1.624),
    "g5.8xlarge": Instance("A10G", 1, 32, 128, 900, 2.448),
    "g5.12xlarge": Instance("A10G", 4, 48, 192, 3800, 5.672),
    "g5.16xlarge": Instance("A10G", 1, 64, 256, 1900, 4.096),
    "g5.24xlarge": Instance("A10G", 4, 96, 384, 3800, 8.144),
    "g5.48xlarge": Instance("A10G", 8, 192, 768, 7600, 16.288),
    "g6.xlarge": Instance("L4", 1, 4, 16, 250, 0.8048),
    "g6.2xlarge": Instance("L4", 1, 8, 32, 450, 0.9776),
    "g6.4xlarge": Instance("L4", 1, 16, 64, 600, 1.3232),
    "g6.8xlarge": Instance("L4", 1, 32, 128, 900, 2.0144),
    "g6.12xlarge": Instance("L4", 4, 48, 192, 3760, 4.6016),
    "g6.16xlarge": Instance("L4", 1, 64, 256, 1880, 3.3968),
    "g6.24xlarge": Instance("L4", 4, 96, 384, 3760, 6.6752),
    "g6.48xlarge": Instance("L4", 8, 192, 768, 7520, 13.3504),
    "g6e.xlarge": Instance("L40S", 1, 4, 32, 250, 1.861),
    "g6e.2xlarge": Instance("L40S", 1, 8, 64, 450, 2.24208),
    "g6e.4xlarge": Instance("L40S", 1, 16, 128, 600, 3.00424),
    "g6e.8xlarge": Instance("L40S", 1, 32, 256, 900, 4.52856),
    "g6e.12xlarge": Instance("L40S", 4, 48, 384, 3800, 10.49264),
    "g6e.16xlarge": Instance("L40S", 1, 64, 512, 1900, 7.57719),
    "g6e.24xlarge": Instance("L40S", 4, 96, 768, 3800, 15.06559),
    "g6e.48xlarge": Instance("L40S", 8, 192, 1536, 7600, 30.13118),
    "p4d.24xlarge": Instance("A100", 8, 96, 1152, 8000, 21.957642),
    "p5.4xlarge": Instance("H100", 1, 16, 256, 3800, 6.88),
    "p5.48xlarge": Instance("H100", 8, 192, 2048, 30400, 55.04),
}


def find_instance(name: str) -> Instance:
    """The instance type of this name.

    Raises: ConfigError that names the known ones, or says why it cannot be used.
    """
    if name in INSTANCES:
        return INSTANCES[name]
    if name.startswith("p3"):
        # docs.nvidia.com/cuda/cuda-toolkit-release-notes: 13.0 has dropped Maxwell, Pascal and Volta.
        raise ConfigError(
            f"--instance {name} has V100 GPUs, of the Volta generation, for which CUDA 13 has no code; rent a g4dn, "
            "g5, g6, g6e, p4d or p5"
        )
    sizes: dict[str, list[str]] = {}
    for known in INSTANCES:
        family, _, size = known.partition(".")
        sizes.setdefault(family, []).append(size)
    listed = ", ".join(f"{family} ({', '.join(ones)})" for family, ones in sizes.items())
    raise ConfigError(f"--instance {name} is not known; known are {listed}")
