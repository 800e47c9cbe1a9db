"""How fast training is here, measured."""

from trainer.performance._bench import bench_train, make_photos
from trainer.performance._bench_data import bench_check, bench_open, bench_prepare, make_sample
from trainer.performance._bench_loader import bench_loader

__all__ = [
    "bench_check",
    "bench_loader",
    "bench_open",
    "bench_prepare",
    "bench_train",
    "make_photos",
    "make_sample",
]
