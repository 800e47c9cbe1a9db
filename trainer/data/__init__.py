"""From a prepared data set to batches on the device."""

from trainer.data._decoding import check_decoding
from trainer.data._file_reader import dali_version, file_reader_batches
from trainer.data._images import Batch, DecodeOn, TrainImages, ValImages
from trainer.data._order import epoch_order, uniform
from trainer.data._preprocessing import MEAN, STD, preprocessing, random_resized_crops

__all__ = [
    "MEAN",
    "STD",
    "Batch",
    "DecodeOn",
    "TrainImages",
    "ValImages",
    "check_decoding",
    "dali_version",
    "epoch_order",
    "file_reader_batches",
    "preprocessing",
    "random_resized_crops",
    "uniform",
]
