"""Whole trainings of ResNet-50 on ImageNet on rented machines, as those who did them state it in their repositories.

Read on 2026-11-25; at 224 px and with other code than this. docs/performance.md has the same and more.
"""

from __future__ import annotations

from dataclasses import dataclass

from trainer.instances import INSTANCES


@dataclass(frozen=True)
class PublishedRun:
    """One training; figures are their author's."""

    who: str  # repository on GitHub
    instance: str  # a family where the size is not stated
    gpus: str
    spot: bool
    epochs: int
    hours: float
    top1: float  # share in 0..1
    images_per_second: float | None  # of all GPUs together; None: not stated
    stated_usd: float | None  # None: not stated

    @property
    def usd(self) -> float | None:
        """As stated, else what the hours cost on demand; None where the size of the machine is not stated either."""
        if self.stated_usd is not None or self.instance not in INSTANCES:
            return self.stated_usd
        return self.hours * INSTANCES[self.instance].usd_per_hour


PUBLISHED = (
    PublishedRun("cr21/Resnet50-Imagenet1K", "g5.8xlarge", "A10G", True, 50, 27.0, 0.7529, 602, 26.41),
    PublishedRun(
        "AsangCode/ResNet50_ImageNet1K_Training_From_Scratch",
        "g5.2xlarge",
        "A10G",
        False,
        50,
        26.7,
        0.7499,
        667,
        32.0,
    ),
    PublishedRun(
        "cr21/Resnet50-Imagenet-1K-Training", "g5.12xlarge", "4 A10G", True, 60, 20.0, 0.7511, 1268, 32.0
    ),
    PublishedRun(
        "Sagar063/week9_ERAV4_ImageNet_ResNet-50_Model_Experiments",
        "g5.xlarge",
        "A10G",
        True,
        195,
        90.0,
        0.7766,
        810,
        85.0,
    ),
    PublishedRun("sidrocks/resnet50_Imagenet", "g4dn.2xlarge", "T4", False, 50, 67.0, 0.7527, 269, None),
    PublishedRun("dhairyag/ImageNet1k_ResNet50", "g4dn.2xlarge", "T4", False, 80, 80.0, 0.7521, 361, None),
    PublishedRun("chethan180/imagenet-1k", "g6", "L4", False, 90, 106.0, 0.7677, 309, None),
    PublishedRun("arghyaiitb/assignment_9", "p4d.24xlarge", "8 A100", True, 80, 64 / 60, 0.7513, None, None),
)
