"""From a prepared data set to batches on the device."""

from trainer.dataloader._crops import MEAN, STD, preprocessing, random_resized_crops
from trainer.dataloader._file_reader import dali_version, file_reader_batches
from trainer.dataloader._integrity import check_decoding
from trainer.dataloader._loaders import Batch, TrainLoader, ValLoader
from trainer.dataloader._sampler import epoch_order, uniform

__all__ = [
    "MEAN",
    "STD",
    "Batch",
    "TrainLoader",
    "ValLoader",
    "check_decoding",
    "dali_version",
    "epoch_order",
    "file_reader_batches",
    "preprocessing",
    "random_resized_crops",
    "uniform",
]
