"""The network, built and laid out for tensor cores, and what it is made of."""

from trainer.model._build import architectures, build, classifier_tensors, find, rebuild
from trainer.model._stochastic_depth import skip_blocks
from trainer.model._summary import Layer, Summary, summary, summary_of

__all__ = [
    "Layer",
    "Summary",
    "architectures",
    "build",
    "classifier_tensors",
    "find",
    "rebuild",
    "skip_blocks",
    "summary",
    "summary_of",
]
