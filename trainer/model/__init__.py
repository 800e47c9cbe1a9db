"""The network, built and laid out for tensor cores."""

from trainer.model._build import architectures, build, find

__all__ = ["architectures", "build", "find"]
