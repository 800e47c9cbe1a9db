"""ResNet-50 on ImageNet, from the archive to the Jetson, on the GPUs one can rent."""

from trainer.processes import set_switches

__version__ = "0.1.0"

set_switches()  # before any library is imported
