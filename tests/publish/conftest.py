"""A model that was trained for a moment, and a Hub to publish it to."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.export.conftest import photo
from tests.publish.hub import WRITE, Hub
from trainer.model import build
from trainer.tracking import DatasetInfo, LoadedModel, ModelInfo, Origin, Registered, RunHistory, Sample

PREPROCESS = {"val_resize": 73, "val_size": 64, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
COUNTS = {"train": 1437, "val": 360, "classes": 10}
DIGITS = tuple("0123456789")


def weights(architecture: str, classes: int = 10) -> dict[str, torch.Tensor]:
    """Of a network whose BatchNorm has seen something, so that its answers differ between photos."""
    torch.manual_seed(0)
    network = build(architecture, classes)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # torch: None is the plain mean
    with torch.no_grad():
        network(torch.randn(8, 3, 64, 64))
    return network.state_dict()


def info(
    class_ids: tuple[str, ...] = DIGITS,
    classes: tuple[str, ...] | None = None,
    *,
    architecture: str = "resnet18",
    top1: float = 0.9861,
) -> ModelInfo:
    return ModelInfo(architecture, class_ids, classes or class_ids, PREPROCESS, "digits", top1, 1.0, "d" * 64)


def loaded(architecture: str = "resnet18", class_ids: tuple[str, ...] = DIGITS) -> LoadedModel:
    samples = tuple(Sample(f"of ana {seed}.JPEG", photo(seed), seed) for seed in range(3))
    registered = Registered("resnet18-digits", 3, "a" * 32)
    described = info(class_ids, architecture=architecture)
    return LoadedModel(described, samples, registered.uri, registered, weights(architecture, len(class_ids)))


def origin(run: Path | None = None, dataset: str = "digits", **counts: int) -> Origin:
    tags = {"gpu": "cpu", "git_commit": "0123456789", "mlflow.user": "ana", "user": "ana"}
    data = DatasetInfo(dataset, "d" * 64, "/home/ana/data", counts or COUNTS)
    return Origin(run, RunHistory(params={"epochs": 14, "model": "resnet18"}, tags=tags, dataset=data))


@pytest.fixture(scope="session")
def model() -> LoadedModel:
    return loaded()


@pytest.fixture(scope="session")
def _hub() -> Iterator[Hub]:
    server = Hub()
    yield server
    server.stop()


@pytest.fixture
def hub(_hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Hub:
    """An empty Hub, which this process takes for the real one, with a token that may write."""
    _hub.empty()
    for name, value in {
        "ENDPOINT": _hub.url,
        "HF_HUB_DISABLE_XET": True,
        "HF_TOKEN_PATH": str(tmp_path / "home" / "token"),
        "HF_HUB_CACHE": str(tmp_path / "home" / "hub"),
    }.items():
        monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
    monkeypatch.setenv("HF_TOKEN", WRITE)
    return _hub
