"""`trainer evaluate`: the accuracy of a model in any of the forms it takes on its way."""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from trainer.checkpoint import list_checkpoints, load_state
from trainer.cli._processes import run_in_processes
from trainer.cli._terminal import show_table
from trainer.config import Images, Recipe
from trainer.dataloader import ValLoader
from trainer.dataset import Dataset, open_dataset
from trainer.distributed import choose_device, choose_nproc, join_world
from trainer.errors import ConfigError, DataError
from trainer.export import is_bundle, load_bundle
from trainer.model import build
from trainer.tracking import load
from trainer.training import Accuracy, evaluate, flip_tta, full_precision

Network = Callable[[torch.Tensor], torch.Tensor]


def run(options: argparse.Namespace) -> int:
    """Measure the model on all validation images, in fp32, and print the result."""
    dataset = open_dataset(options.data)
    processes = choose_nproc(choose_device(options.device), options.nproc_per_node)
    if processes > 1 and "RANK" not in os.environ:
        # What is wrong with the model is said once, not by each process.
        _model(options, dataset, torch.device("cpu"))
        return run_in_processes(processes)
    with join_world(options.device) as world:
        network, images = _model(options, dataset, world.device)
        with full_precision():
            accuracy = evaluate(
                flip_tta(network) if options.tta else network,
                ValLoader(dataset.val, images, world, batch=options.batch_size),
                world,
                classes=len(dataset.classes) if options.per_class else 0,
            )
        if world.is_main:
            _show(options, dataset, accuracy)
    return 0


def _show(options: argparse.Namespace, dataset: Dataset, accuracy: Accuracy) -> None:
    classes = _from_worst_to_best(dataset, accuracy)
    if options.json:
        print(json.dumps({"model": options.model, "top1": accuracy.top1, "top5": accuracy.top5,
                          "loss": accuracy.loss, "images": accuracy.images, "flip": options.tta,
                          **({"classes": classes} if options.per_class else {})}))  # fmt: skip
        return
    how = ", averaged over each image and its mirror" if options.tta else ""
    show_table(
        options.model,
        {
            "top-1": f"{accuracy.top1:.2%} of {accuracy.images:,} validation images{how}",
            "top-5": f"{accuracy.top5:.2%}",
            "loss": f"{accuracy.loss:.4f}",
        },
    )
    if options.per_class:
        show_table(
            "each class, from the worst to the best",
            {
                " ".join(dict.fromkeys((one["class"], one["name"]))): f"{_percent(one['top1'])}  "
                f"{_percent(one['top5'])}  {one['images']:>6,} images"
                for one in classes
            },
        )


def _from_worst_to_best(dataset: Dataset, accuracy: Accuracy) -> list[dict[str, Any]]:
    """Each class with its share of right answers, as plain data; those without images last."""
    rows = zip(dataset.classes, dataset.class_names, accuracy.per_class, strict=False)
    found = [
        {
            "class": folder,
            "name": name,
            "images": one.images,
            "top1": one.top1 if one.images else None,
            "top5": one.top5 if one.images else None,
        }
        for folder, name, one in rows
    ]
    return sorted(found, key=lambda row: (not row["images"], row["top1"] or 0.0, row["top5"] or 0.0))


def _percent(share: float | None) -> str:
    return f"{share:8.2%}" if share is not None else f"{'-':>8}"


def _model(options: argparse.Namespace, dataset: Dataset, device: torch.device) -> tuple[Network, Images]:
    """The model as a function to logits or probabilities, and its preprocessing.

    Raises: ConfigError, DataError, TrackingError if there is none, or it is for other classes.
    """
    network, classes, images = _network(options, device, len(dataset.classes))
    if classes is not None and classes != dataset.class_names:
        raise DataError(
            f"{options.model} knows {len(classes)} classes ({classes[0]} …) and {options.data} has "
            f"{len(dataset.classes)} ({dataset.class_names[0]} …); evaluate it on the data set it was trained for"
        )
    return network, images


def _network(
    options: argparse.Namespace, device: torch.device, classes: int
) -> tuple[Network, tuple[str, ...] | None, Images]:
    """The model as a function to logits or probabilities, its classes if it tells, and its preprocessing."""
    if options.model.startswith(("models:/", "runs:/")):
        loaded = load(options.model, runs=options.runs)
        return loaded.module.to(device), loaded.facts.classes, _images(loaded.facts.images)
    path = Path(options.model)
    if is_bundle(path):
        bundle = load_bundle(path)
        return lambda images: bundle(images.cpu()).log().to(device), bundle.classes, _images(bundle.images)
    if path.is_dir():
        checkpoints = list_checkpoints(path / "checkpoints")
        if not checkpoints:
            raise ConfigError(
                f"{path} is neither a run with checkpoints nor a bundle; give a run folder below --runs, "
                "a folder made by `trainer export`, or models:/NAME@candidate"
            )
        path = checkpoints[0]
    recipe = _recipe(path)
    model = build(recipe.model, classes)
    try:
        model.load_state_dict(
            load_state(path, "average")["weights"] if recipe.ema_decay else load_state(path, "model")
        )
    except RuntimeError:
        raise DataError(
            f"{path} was trained for another number of classes than the {classes} of {options.data}; "
            "evaluate it on the data set it was trained for"
        ) from None
    return model.to(device).eval(), None, recipe.images


def _images(facts: dict[str, object]) -> Images:
    return TypeAdapter(Images).validate_python(
        {"val_resize": facts["val_resize"], "val_size": facts["val_size"]}
    )


def _recipe(checkpoint: Path) -> Recipe:
    """The recipe of the run that wrote `checkpoint`."""
    path = checkpoint.resolve().parent.parent / "recipe.json"  # best.pt is a link
    try:
        return TypeAdapter(Recipe).validate_json(path.read_bytes())
    except (OSError, ValueError):
        raise ConfigError(
            f"{checkpoint} has no readable recipe at {path}; keep checkpoints in their run's folder"
        ) from None
