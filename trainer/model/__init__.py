"""The network, built and laid out for tensor cores."""

from trainer.model._resnet import build

__all__ = ["build"]
