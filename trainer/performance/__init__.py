"""How fast training is here, measured; and what makes it fastest, found by trying."""

from trainer.performance._autotune import Choice, choose, defaults, measure
from trainer.performance._bench_data import bench_check, bench_open, bench_prepare
from trainer.performance._bench_loader import bench_loader
from trainer.performance._bench_train import bench_loop, bench_train
from trainer.performance._estimate import IMAGENET, INSTANCES, JPEG_KB, Estimate, estimate, find_instance
from trainer.performance._photos import make_sample

__all__ = [
    "IMAGENET",
    "INSTANCES",
    "JPEG_KB",
    "Choice",
    "Estimate",
    "bench_check",
    "bench_loader",
    "bench_loop",
    "bench_open",
    "bench_prepare",
    "bench_train",
    "choose",
    "defaults",
    "estimate",
    "find_instance",
    "make_sample",
    "measure",
]
