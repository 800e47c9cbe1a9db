"""From a class-folder data set on disk to batches on the device."""

from trainer.data._dataset import Dataset, Split, open_dataset
from trainer.data._digits import prepare_digits
from trainer.data._images import Batch, DecodeOn, TrainImages, ValImages
from trainer.data._order import epoch_order, uniform
from trainer.data._preprocessing import MEAN, STD, preprocessing, random_resized_crops

__all__ = [
    "MEAN",
    "STD",
    "Batch",
    "Dataset",
    "DecodeOn",
    "Split",
    "TrainImages",
    "ValImages",
    "epoch_order",
    "open_dataset",
    "prepare_digits",
    "preprocessing",
    "random_resized_crops",
    "uniform",
]
