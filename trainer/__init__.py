"""ResNet-50 on ImageNet, from the archive to the Jetson, on the GPUs one can rent."""

__version__ = "0.1.0"
