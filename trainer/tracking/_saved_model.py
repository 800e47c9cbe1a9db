"""The trained model in the run folder: written as it will be registered, loaded back, and measured again."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trainer.errors import TrackingError
from trainer.tracking._server import quiet

if TYPE_CHECKING:
    import torch

MODEL = "model"  # the folder in the run folder
SAVED = "saved.json"  # in it, and not registered with it
INFO = "info.json"
SAMPLES = "samples"
WEIGHTS = "data/model.pt2"


@dataclass(frozen=True)
class ModelInfo:
    """What must be known about a model to use it; stored with it."""

    architecture: str
    classes: tuple[str, ...]  # names in label order
    preprocess: dict[str, Any]  # val_resize, val_size, mean, std, … ; plain JSON
    recipe: str
    top1: float  # share of the validation images in 0..1
    top5: float  # share of the validation images in 0..1
    dataset_digest: str


@dataclass(frozen=True)
class Sample:
    """A validation image that goes with the model, to try it on."""

    name: str  # of the file, without folders
    jpeg: bytes
    label: int


class SavedModel(NamedTuple):
    """What `save_model` found about the model it wrote."""

    name: str  # of the registered model
    weights_sha256: str
    model_sha256: str  # of the file
    top1: float  # as loaded back, share of the validation images in 0..1
    top5: float
    num_images: int  # of the validation set


def save_model(
    folder: Path,
    model: torch.nn.Module,
    info: ModelInfo,
    samples: Sequence[Sample],
    measure: Callable[[torch.nn.Module], tuple[float, float]],
    *,
    name: str,
    num_images: int,
) -> None:
    """Write the trained model to `model/` in the run folder, as it will be registered; load and measure that.

    The folder is complete or absent. One that holds these weights already is left as it is.

    Args:
        folder: the run folder.
        model: the network as it was measured; it is not changed.
        info: description of the model, with the accuracy that was measured.
        samples: a few validation images.
        measure: function to top-1 and top-5 (0..1) of a network over all validation images, in full fp32. It gets a
            module on the CPU that may be moved but refuses `.eval()`; it is in eval mode.
        name: name of the registered model.
        num_images: number of validation images; one of them may be judged otherwise, for rounding.

    Raises: TrackingError if what is loaded back measures otherwise, or the disk does not take it.
    """
    import torch

    exportable = _exportable(model)
    weights = _weights_sha256(exportable)
    final, partial = folder / MODEL, folder / f".{MODEL}"
    if has_saved_model(folder) and json.loads((final / SAVED).read_text())["weights_sha256"] == weights:
        return
    try:
        for path in (partial, final):
            shutil.rmtree(path, ignore_errors=True)
        with quiet():
            _write_model(partial, exportable, info, samples)
            with torch.inference_mode():
                top1, top5 = measure(load_module(partial))
        allowed = 1.5 / num_images  # one image, and half a one for the division's rounding
        if not (abs(top1 - info.top1) <= allowed and abs(top5 - info.top5) <= allowed):  # nor if it is nan
            raise TrackingError(
                f"the model of {folder} gives top-1 {top1:.4%} and top-5 {top5:.4%} when it is loaded back, and the "
                f"run measured {info.top1:.4%} and {info.top5:.4%}; it is not registered: train again, and report "
                "it if it stays"
            )
        saved = SavedModel(name, weights, sha256(partial / WEIGHTS), top1, top5, num_images)
        (partial / SAVED).write_text(json.dumps(saved._asdict(), indent=2) + "\n")
        for path in partial.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        partial.rename(final)
    except OSError as error:
        raise TrackingError(
            f"the model of {folder} cannot be written: {error.strerror}; make room and start again to go on"
        ) from None


def has_saved_model(folder: Path) -> bool:
    """Whether the run in `folder` has come so far that its model can be registered."""
    return (folder / MODEL / SAVED).exists()


def read_saved_model(folder: Path) -> tuple[SavedModel, dict[str, Any]]:
    """What `save_model` found, and what it stored of `ModelInfo`.

    Raises: TrackingError if the run in `folder` has no saved model.
    """
    try:
        saved = SavedModel(**json.loads((folder / MODEL / SAVED).read_text()))
    except FileNotFoundError:
        raise TrackingError(
            f"{folder} has no {MODEL}/ to register; it is written at the end of training"
        ) from None
    return saved, json.loads((folder / MODEL / INFO).read_text())


def with_unique_names(samples: Sequence[Sample]) -> Sequence[Sample]:
    """The samples; with numbered names if two folders had a file of the same name."""
    if len({sample.name for sample in samples}) == len(samples):
        return samples
    return [replace(sample, name=f"{index}-{sample.name}") for index, sample in enumerate(samples)]


def load_module(path: Path) -> torch.nn.Module:
    """The network in an MLflow model folder, on the CPU."""
    import mlflow.pytorch

    module: torch.nn.Module = mlflow.pytorch.load_model(str(path))
    return module


def sha256(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _write_model(path: Path, model: torch.nn.Module, info: ModelInfo, samples: Sequence[Sample]) -> None:
    import mlflow.pytorch
    import numpy as np
    import torch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    size = info.preprocess["val_size"]
    float32 = np.dtype(np.float32)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(float32, (-1, 3, size, size))]),
        outputs=Schema([TensorSpec(float32, (-1, len(info.classes)))]),
    )
    mlflow.pytorch.save_model(
        model,
        str(path),
        mlflow_model=Model(signature=signature),
        signature=signature,
        # A batch of 1 would be taken for the only size there is. Zeros, for they are stored as text.
        input_example=np.zeros((2, 3, size, size), np.float32),
        # Given, or else MLflow finds out in a process of its own, which takes longer than the rest.
        pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", "numpy"],
        serialization_format="pt2",
        metadata={"info": INFO, "samples": SAMPLES},
    )
    (path / SAMPLES).mkdir()
    samples = with_unique_names(samples)
    for sample in samples:
        (path / SAMPLES / sample.name).write_bytes(sample.jpeg)
    labels = {sample.name: sample.label for sample in samples}
    (path / INFO).write_text(json.dumps({**asdict(info), "labels": labels}, indent=2) + "\n")


def _exportable(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of `model` on the CPU, fp32, in eval mode, not compiled; weights stay channels-last if they are.

    torch.export.save warns of channels-last weights, yet they come back bit-equal and in that layout,
    so the same kernels run and the same numbers come out.
    """
    return copy.deepcopy(getattr(model, "_orig_mod", model)).cpu().float().eval().requires_grad_(False)


def _weights_sha256(model: torch.nn.Module) -> str:
    """Equal names and weights, equal digest, however they are stored."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().numpy())
    return digest.hexdigest()
