"""A small network and its runs, to be saved, registered and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch

from tests.tracking.conftest import run_info
from trainer.tracking import Journal, ModelInfo, Registered, Sample, register, save_model

PREPROCESS = {"val_resize": 18, "val_size": 16, "mean": [0.5, 0.5, 0.5], "std": [0.2, 0.2, 0.2]}
INFO = ModelInfo(
    "tiny",
    ("c", "d", "e"),
    ("cat", "dog", "eel"),
    PREPROCESS,
    "photos",
    top1=0.5,
    top5=1.0,
    dataset_digest="d" * 64,
)
SAMPLES = [Sample("a.JPEG", b"one", 0), Sample("b.JPEG", b"two", 2)]
VAL_IMAGES = 40


def network(seed: int = 0) -> torch.nn.Module:
    """A convolution, BatchNorm with statistics of its own, and a linear layer; channels-last."""
    torch.manual_seed(seed)
    layers = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(8, 3),
    )
    layers(torch.randn(16, 3, 16, 16))
    return layers.to(memory_format=torch.channels_last).eval()


def rebuild(weights: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    """The same network with these weights."""
    module = network(seed=99)
    module.load_state_dict(dict(weights))
    return module


def finished_run(folder: Path) -> Path:
    journal = Journal(folder)
    journal.start(run_info(name=folder.name))
    journal.finish("finished")
    return folder


def register_it(
    folder: Path,
    model: torch.nn.Module,
    *,
    measured: tuple[float, float] | None = None,
    samples: list[Sample] = SAMPLES,
    top1: float = INFO.top1,
    name: str = "tiny",
) -> Registered:
    info = replace(INFO, top1=top1)
    save_model(
        folder,
        model,
        info,
        samples,
        lambda _: measured or (top1, info.top5),
        rebuild=rebuild,
        name=name,
        num_images=VAL_IMAGES,
    )
    return register(folder)
