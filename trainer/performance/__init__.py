"""How fast training is here, measured."""

from trainer.performance._bench import bench_train, make_photos

__all__ = ["bench_train", "make_photos"]
