"""From the archive to a verified data set on disk."""

from trainer.dataset._check import Finding, check_files, counts_per_class, in_threads, quarantine
from trainer.dataset._digits import digits
from trainer.dataset._download import fetch
from trainer.dataset._manifest import (
    Dataset,
    ImageRecord,
    Skipped,
    Split,
    open_dataset,
    write_manifest,
)
from trainer.dataset._preparation import (
    Prepared,
    Progress,
    Resize,
    Source,
    SourceImage,
    check_new,
    find_complete,
    prepare,
)
from trainer.dataset._published import FASTAI, TINY_IMAGENET_ZIP, imagenet_classes, imagenet_val_labels
from trainer.dataset._sources import fastai, folder, imagenet, kaggle, tiny_imagenet

__all__ = [
    "FASTAI",
    "TINY_IMAGENET_ZIP",
    "Dataset",
    "Finding",
    "ImageRecord",
    "Prepared",
    "Progress",
    "Resize",
    "Skipped",
    "Source",
    "SourceImage",
    "Split",
    "check_files",
    "check_new",
    "counts_per_class",
    "digits",
    "fastai",
    "fetch",
    "find_complete",
    "folder",
    "imagenet",
    "imagenet_classes",
    "imagenet_val_labels",
    "in_threads",
    "kaggle",
    "open_dataset",
    "prepare",
    "quarantine",
    "tiny_imagenet",
    "write_manifest",
]
