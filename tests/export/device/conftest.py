"""A bundle of a small network with all its forms, and stand-ins of NVIDIA's programs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.export.conftest import CLASSES, PREPROCESS, photo
from tests.nets import Small
from trainer.export import export
from trainer.sealed import seal
from trainer.tracking import LoadedModel, ModelInfo, Sample

ROOT = Path(__file__).parents[3]
DEVICE = ROOT / "trainer" / "export" / "device"
VERSIONS = {"8.5.2": 8502, "10.3.0": 100300, "10.16.2": 101602, "11.4.1": 110401}


def slow_cases(*values: str) -> list[Any]:
    """Cases of a test that are left out of the fast set, where another one stands for them."""
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


def small_model() -> LoadedModel:
    """A network whose answers differ between photos, with three of them."""
    torch.manual_seed(0)
    network = Small(len(CLASSES))
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # torch: None is the plain mean
    with torch.no_grad():
        network(torch.randn(64, 3, 32, 32))
        list(network.parameters())[-2].mul_(5)  # of the head
    info = ModelInfo(
        "tests.nets:Small", CLASSES, CLASSES, PREPROCESS, "photos", 0.5, 1.0, dataset_digest="d" * 64
    )
    samples = tuple(Sample(f"{seed}.JPEG", photo(seed), seed) for seed in range(3))
    return LoadedModel(info, samples, "small", None, dict(network.eval().state_dict()))


def make_bundle(folder: Path) -> Path:
    """A bundle with every form of the model and the files for the device."""
    export(small_model(), folder)
    shutil.copy(
        folder / "model_fp16.onnx", folder / "model_int8.onnx"
    )  # there is no data set to calibrate one on
    seal(folder)
    return folder


@pytest.fixture(scope="session")
def small_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_bundle(tmp_path_factory.mktemp("small") / "bundle")


@pytest.fixture
def copy(small_bundle: Path, tmp_path: Path) -> Path:
    """A bundle to do harm to."""
    return shutil.copytree(small_bundle, tmp_path / "copy")


@pytest.fixture
def trtexec(tmp_path: Path) -> Callable[[str], Path]:
    """Makes a stand-in of the trtexec of a TensorRT; its calls are in `calls` beside it."""

    def make(version: str) -> Path:
        folder = tmp_path / f"trt-{version}"
        folder.mkdir(exist_ok=True)
        for name in ("trtexec", "trtexec_options.txt"):
            shutil.copy(Path(__file__).with_name(name), folder)
        (folder / "version").write_text(str(VERSIONS[version]))
        return folder / "trtexec"

    return make


def run(
    *command: str | Path, cwd: Path | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a command with this Python as `python3`; both streams are in `stdout`."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=cwd,
        env={"PATH": path, "HOME": os.environ.get("HOME", "/"), **environment},
    )


def golden(folder: Path, name: str) -> np.ndarray:
    """An array of a bundle's golden/."""
    return np.load(folder / "golden" / f"{name}.npy")
