"""Throughput of training on this machine: measured, autotuned before a run, and predicted for rented machines.

Names are imported when they are asked for: an estimate needs neither torch nor DALI.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainer.performance._autotune import (
        AutotuneResult,
        autotune,
        defaults,
        halve_batch_when_out_of_memory,
        measure,
    )
    from trainer.performance._baselines import BASELINES, Baseline
    from trainer.performance._bench_loader import LoaderBench, LoaderRatio, LoaderThroughput, bench_loader
    from trainer.performance._bench_train import GpuMemory, TrainBench, bench_train
    from trainer.performance._environment import Environment, environment
    from trainer.performance._estimate import IMAGENET, JPEG_KB, Estimate, estimate
    from trainer.performance._offers import Offer, cheapest_of_each_bar, cheapest_of_each_gpu, offers
    from trainer.performance._photos import DISTINCT, make_sample, repeat_images, sample_photos
    from trainer.performance._published import PUBLISHED, PublishedRun
    from trainer.performance._roofline import Roofline, roofline
    from trainer.performance._trial import Trial, TrialResult, fixed_batch

_MODULES = {
    "BASELINES": "_baselines",
    "DISTINCT": "_photos",
    "IMAGENET": "_estimate",
    "JPEG_KB": "_estimate",
    "PUBLISHED": "_published",
    "AutotuneResult": "_autotune",
    "Baseline": "_baselines",
    "Environment": "_environment",
    "Estimate": "_estimate",
    "GpuMemory": "_bench_train",
    "LoaderBench": "_bench_loader",
    "LoaderRatio": "_bench_loader",
    "LoaderThroughput": "_bench_loader",
    "Offer": "_offers",
    "PublishedRun": "_published",
    "Roofline": "_roofline",
    "TrainBench": "_bench_train",
    "Trial": "_trial",
    "TrialResult": "_trial",
    "autotune": "_autotune",
    "bench_loader": "_bench_loader",
    "bench_train": "_bench_train",
    "cheapest_of_each_bar": "_offers",
    "cheapest_of_each_gpu": "_offers",
    "defaults": "_autotune",
    "environment": "_environment",
    "estimate": "_estimate",
    "fixed_batch": "_trial",
    "halve_batch_when_out_of_memory": "_autotune",
    "make_sample": "_photos",
    "measure": "_autotune",
    "offers": "_offers",
    "repeat_images": "_photos",
    "roofline": "_roofline",
    "sample_photos": "_photos",
}

__all__ = [
    "BASELINES",
    "DISTINCT",
    "IMAGENET",
    "JPEG_KB",
    "PUBLISHED",
    "AutotuneResult",
    "Baseline",
    "Environment",
    "Estimate",
    "GpuMemory",
    "LoaderBench",
    "LoaderRatio",
    "LoaderThroughput",
    "Offer",
    "PublishedRun",
    "Roofline",
    "TrainBench",
    "Trial",
    "TrialResult",
    "autotune",
    "bench_loader",
    "bench_train",
    "cheapest_of_each_bar",
    "cheapest_of_each_gpu",
    "defaults",
    "environment",
    "estimate",
    "fixed_batch",
    "halve_batch_when_out_of_memory",
    "make_sample",
    "measure",
    "offers",
    "repeat_images",
    "roofline",
    "sample_photos",
]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
