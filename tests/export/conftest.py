"""A ResNet that was trained for a moment, registered, and exported as a bundle."""

from __future__ import annotations

import io
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.nets import Small
from trainer.export import Bundle, export
from trainer.model import build, rebuild
from trainer.tracking import (
    DatasetInfo,
    Journal,
    LoadedModel,
    ModelInfo,
    Registered,
    RunInfo,
    Sample,
    load_model,
    register,
    save_model,
)

ARCHITECTURE = "resnet18"  # the files of ResNet-50 are four times as large
CLASSES = ("cat", "dog", "eel", "fox", "gnu", "hen")
PREPROCESS = {"val_resize": 40, "val_size": 32, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def photo(seed: int, width: int = 90, height: int = 70) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
    return file.getvalue()


def network() -> torch.nn.Module:
    """A ResNet whose BatchNorm has seen something, so that its answers differ between photos."""
    torch.manual_seed(0)
    model = build(ARCHITECTURE, len(CLASSES))
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # torch: None is the plain mean
    with torch.no_grad():
        model(torch.randn(16, 3, 32, 32))
    return model.eval()


def register_it(runs: Path, model: torch.nn.Module, *, name: str = "resnet50-photos") -> Registered:
    journal = Journal(runs / name)
    journal.start(RunInfo(name, "photos", params={}, tags={}, dataset=DatasetInfo("p", "d", "/d")))
    journal.finish("finished")
    info = ModelInfo(ARCHITECTURE, CLASSES, CLASSES, PREPROCESS, "photos", 0.5, 1.0, dataset_digest="d" * 64)
    samples = [Sample(f"{seed}.JPEG", photo(seed), seed) for seed in range(3)]
    save_model(
        runs / name,
        model,
        info,
        samples,
        lambda _: (0.5, 1.0),
        rebuild=lambda weights: rebuild(ARCHITECTURE, len(CLASSES), weights),
        name=name,
        num_images=40,
    )
    return register(runs / name)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A store with one registered ResNet."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copy(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        register_it(folder, network())
    return folder


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="session")
def model(runs: Path) -> LoadedModel:
    return load_model("models:/resnet50-photos@candidate", runs=runs)


@pytest.fixture(scope="session")
def light(model: LoadedModel) -> LoadedModel:
    """The same with a network that is written in no time, for tests that ask about something else."""
    torch.manual_seed(0)
    weights = dict(Small(len(CLASSES)).state_dict())
    return replace(model, info=replace(model.info, architecture="tests.nets:Small"), state_dict=weights)


@pytest.fixture(scope="session")
def light_bundle(light: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(light, tmp_path_factory.mktemp("out") / "bundle")


@pytest.fixture(scope="session")
def bundle(model: LoadedModel, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export(model, tmp_path_factory.mktemp("out") / "bundle")
