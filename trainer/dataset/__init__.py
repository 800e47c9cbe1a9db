"""From the archive to a verified data set on disk."""

from trainer.dataset._addresses import shown_url
from trainer.dataset._archive_files import ArchiveFile
from trainer.dataset._check import Finding, check_files, in_threads, quarantine
from trainer.dataset._completeness import (
    Completeness,
    Misplaced,
    completeness,
    counts_per_class,
    require_complete,
)
from trainer.dataset._doubts import Copies, Duplicates, doubts, duplicates
from trainer.dataset._download import fetch
from trainer.dataset._fetch import Fetched, fetch_dataset
from trainer.dataset._headers import Header, Refused, read_header, without_texts
from trainer.dataset._ignored import Ignored, IgnoredCount, IgnoredCounts, ignored_in
from trainer.dataset._images import Resize
from trainer.dataset._manifest import (
    SPLITS,
    Dataset,
    ImageRecord,
    Skipped,
    Split,
    SplitName,
    open_dataset,
    write_manifest,
)
from trainer.dataset._names import several, shown
from trainer.dataset._preparation import Prepared, Progress, check_new, find_complete, prepare
from trainer.dataset._source import Source, SourceImage
from trainer.dataset.forms import FORMS, Fetch, Form, Found, Look, recognise
from trainer.dataset.forms._imagenet_labels import IMAGENET, imagenet_classes, imagenet_val_labels
from trainer.dataset.forms.digits import digits
from trainer.dataset.forms.fastai import fastai
from trainer.dataset.forms.folder import folder
from trainer.dataset.forms.huggingface import huggingface
from trainer.dataset.forms.imagenet import imagenet
from trainer.dataset.forms.kaggle import kaggle
from trainer.dataset.forms.tiny_imagenet import tiny_imagenet

__all__ = [
    "FORMS",
    "IMAGENET",
    "SPLITS",
    "ArchiveFile",
    "Completeness",
    "Copies",
    "Dataset",
    "Duplicates",
    "Fetch",
    "Fetched",
    "Finding",
    "Form",
    "Found",
    "Header",
    "Ignored",
    "IgnoredCount",
    "IgnoredCounts",
    "ImageRecord",
    "Look",
    "Misplaced",
    "Prepared",
    "Progress",
    "Refused",
    "Resize",
    "Skipped",
    "Source",
    "SourceImage",
    "Split",
    "SplitName",
    "check_files",
    "check_new",
    "completeness",
    "counts_per_class",
    "digits",
    "doubts",
    "duplicates",
    "fastai",
    "fetch",
    "fetch_dataset",
    "find_complete",
    "folder",
    "huggingface",
    "ignored_in",
    "imagenet",
    "imagenet_classes",
    "imagenet_val_labels",
    "in_threads",
    "kaggle",
    "open_dataset",
    "prepare",
    "quarantine",
    "read_header",
    "recognise",
    "require_complete",
    "several",
    "shown",
    "shown_url",
    "tiny_imagenet",
    "without_texts",
    "write_manifest",
]
