"""The accuracy of a model on a data set's validation images, on all GPUs."""

from __future__ import annotations

import os
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from trainer import ranks
from trainer.dataloader import ValLoader
from trainer.dataset import Dataset, open_dataset, require_complete
from trainer.distributed import TIMEOUT, choose_device, choose_nproc, join_world
from trainer.errors import DataError, ProcessesFailed
from trainer.files import read_json, write_json
from trainer.run._options import EvaluateOptions
from trainer.run._resolve import ResolvedModel, resolve_model
from trainer.training import Accuracy, evaluate, flip_tta, full_precision

RESULT = "TRAINER_RESULT"  # the file in which processes that `trainer` has started leave their result


@dataclass(frozen=True, kw_only=True)
class ClassResult:
    """Accuracy on the images of one class."""

    wnid: str  # the class's folder; a WordNet id in ImageNet
    name: str
    num_images: int
    top1: float | None  # share in 0..1; None without images
    top5: float | None


@dataclass(frozen=True, kw_only=True)
class EvaluationResult:
    """Accuracy of a model on all validation images."""

    model: str
    top1: float  # share of the images in 0..1
    top5: float
    loss: float  # mean cross-entropy, nats
    num_images: int
    tta: bool  # averaged over each image and its mirror image
    classes: tuple[ClassResult, ...] = ()  # from the worst to the best, if it was asked for


def evaluate_model(options: EvaluateOptions) -> EvaluationResult | None:
    """Measure a model on all validation images of a data set, in fp32.

    Returns: the result; None in processes that leave the last word to another.
    Raises: ConfigError, DataError, TrackingError, ExportError, DeviceError, ProcessesFailed.
    """
    ranks.require_nproc(options.nproc_per_node)
    dataset = open_dataset(options.data)
    require_complete(dataset, partial=options.partial, splits=("val",))
    processes = choose_nproc(choose_device(options.device), options.nproc_per_node)
    if processes > 1 and not ranks.under_torchrun():
        # What is wrong with the model is said once, not by each process.
        _checked(options, dataset, torch.device("cpu"))
        return _in_processes(options, processes)
    with join_world(options.device) as world:
        model = _checked(options, dataset, world.device)
        with full_precision(), world.detect_lost_ranks():
            accuracy = evaluate(
                flip_tta(model.network) if options.tta else model.network,
                ValLoader(dataset.val, model.preprocess, world, batch=options.batch_size),
                world,
                classes=len(dataset.classes) if options.per_class else 0,
            )
        if not world.is_main:
            return None
        result = EvaluationResult(
            model=options.model,
            top1=accuracy.top1,
            top5=accuracy.top5,
            loss=accuracy.loss,
            num_images=accuracy.num_images,
            tta=options.tta,
            classes=_from_worst_to_best(dataset, accuracy),
        )
        if ranks.launched_by_trainer():
            write_json(Path(os.environ[RESULT]), asdict(result))
            return None
        return result


def _in_processes(options: EvaluateOptions, processes: int) -> EvaluationResult:
    from trainer.run._launch import launch

    with tempfile.TemporaryDirectory(prefix="trainer-") as folder:
        file = Path(folder, "result.json")
        os.environ[RESULT] = str(file)
        try:
            code = launch(["evaluate", *options.arguments()], processes, result=file, timeout=TIMEOUT)
        finally:
            del os.environ[RESULT]
        if code:
            raise ProcessesFailed(code)
        content = read_json(file)
    classes = tuple(ClassResult(**one) for one in content.pop("classes"))
    return EvaluationResult(**content, classes=classes)


def _checked(options: EvaluateOptions, dataset: Dataset, device: torch.device) -> ResolvedModel:
    """The model, which must be for the data set's classes."""
    model = resolve_model(options.model, runs=options.runs, device=device, trust=options.trust)
    ours, theirs = dataset.classes, model.class_ids
    if theirs != ours:  # by their folders: words for them may be known or not
        differ = next((i for i, pair in enumerate(zip(ours, theirs, strict=False)) if pair[0] != pair[1]), 0)
        raise DataError(
            f"{options.model} knows {len(theirs)} classes ({theirs[differ]} …) and {options.data} has "
            f"{len(ours)} ({ours[differ]} …); evaluate it on the data set it was trained for"
        )
    return model


def _from_worst_to_best(dataset: Dataset, accuracy: Accuracy) -> tuple[ClassResult, ...]:
    """Each class with its share of right answers; those without images last."""
    rows = zip(dataset.classes, dataset.class_names, accuracy.per_class, strict=False)
    found = [
        ClassResult(
            wnid=wnid,
            name=name,
            num_images=one.num_images,
            top1=one.top1 if one.num_images else None,
            top5=one.top5 if one.num_images else None,
        )
        for wnid, name, one in rows
    ]
    return tuple(sorted(found, key=lambda row: (not row.num_images, row.top1 or 0.0, row.top5 or 0.0)))
