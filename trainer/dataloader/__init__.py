"""From a prepared data set to batches on the device.

`_loaders` shows how a batch is made, `_pipelines` what DALI does to an image, `_augment` how to add an
augmentation.
"""

from trainer.dataloader._crops import CROP_ATTEMPTS, preprocessing, random_resized_crops
from trainer.dataloader._in_hand import culprit_of
from trainer.dataloader._integrity import check_decoding
from trainer.dataloader._loaders import Batch, TrainLoader, ValLoader
from trainer.dataloader._pipelines import (
    PREFETCH,
    decoder_options,
    default_decoder,
    normalise,
    pipeline_options,
)
from trainer.dataloader._reader import read_image
from trainer.dataloader._sampler import epoch_order, repeated, step_draws
from trainer.preprocess import MEAN, STD

__all__ = [
    "CROP_ATTEMPTS",
    "MEAN",
    "PREFETCH",
    "STD",
    "Batch",
    "TrainLoader",
    "ValLoader",
    "check_decoding",
    "culprit_of",
    "decoder_options",
    "default_decoder",
    "epoch_order",
    "normalise",
    "pipeline_options",
    "preprocessing",
    "random_resized_crops",
    "read_image",
    "repeated",
    "step_draws",
]
