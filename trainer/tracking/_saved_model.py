"""The trained model in the run folder: written as it will be registered, loaded back, and measured again.

    weights.safetensors   what we load, into a network that we build
    info.json             what one must know to use it: architecture, classes, preprocessing, samples
    samples/0.jpeg        validation images, numbered; their own names are in info.json
    SHA256SUMS            all files of the folder
    saved.json            what was measured; stays here

The rest is for MLflow's own clients and never read by us: `MLmodel`, `data/model.pt2` and the files beside them can
name code that is run when they are loaded.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trainer.errors import TrackingError
from trainer.files import read_json, read_regular
from trainer.sealed import SUMS, SealBroken, check_seal, safe_names, seal, valid_names, valid_preprocess
from trainer.tracking._server import quiet
from trainer.tracking._weights import WEIGHTS, read_weights, weights_sha256, write_weights

if TYPE_CHECKING:
    import torch

MODEL = "model"  # the folder in the run folder
SAVED = "saved.json"  # in it, and not registered with it
INFO = "info.json"
SAMPLES = "samples"
PT2 = "data/model.pt2"
MOST_SAMPLES = 100


@dataclass(frozen=True)
class ModelInfo:
    """What must be known about a model to use it; stored with it."""

    architecture: str
    class_ids: tuple[str, ...]  # class folders in label order: what the classes are, whatever they are called
    classes: tuple[str, ...]  # their names in words
    preprocess: dict[str, Any]  # val_resize, val_size, mean, std, … ; plain JSON
    recipe: str
    top1: float  # share of the validation images in 0..1
    top5: float  # share of the validation images in 0..1
    dataset_digest: str


@dataclass(frozen=True)
class Sample:
    """A validation image that goes with the model, to try it on."""

    name: str  # of the file, without folders, as its owner called it
    jpeg: bytes
    label: int


class SavedModel(NamedTuple):
    """What `save_model` found about the model it wrote."""

    name: str  # of the registered model
    weights_sha256: str
    files_sha256: str  # of the listing
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
    rebuild: Callable[[Mapping[str, torch.Tensor]], torch.nn.Module],
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
            module on the CPU, in eval mode, that may be moved.
        rebuild: makes the network of stored weights, as whoever loads the model will.
        name: name of the registered model.
        num_images: number of validation images; one of them may be judged otherwise, for rounding.

    Raises: TrackingError if what is loaded back measures otherwise, or the disk does not take it.
    """
    import torch

    exportable = _exportable(model)
    weights = weights_sha256(exportable.state_dict())
    final, partial = folder / MODEL, folder / f".{MODEL}"
    if _is_saved(final, weights):
        return
    try:
        for path in (partial, final):
            shutil.rmtree(path, ignore_errors=True)
        with quiet():
            _write_model(partial, exportable, info, samples)
            loaded = rebuild(read_weights(partial / WEIGHTS))
            _check_pt2(partial / PT2, loaded, int(info.preprocess["val_size"]))
            with torch.inference_mode():
                top1, top5 = measure(loaded)
        allowed = 1.5 / num_images  # one image, and half a one for the division's rounding
        if not (abs(top1 - info.top1) <= allowed and abs(top5 - info.top5) <= allowed):  # nor if it is nan
            raise TrackingError(
                f"the model of {folder} gives top-1 {top1:.4%} and top-5 {top5:.4%} when it is loaded back, and the "
                f"run measured {info.top1:.4%} and {info.top5:.4%}; it is not registered: train again, and report "
                "it if it stays"
            )
        saved = SavedModel(name, weights, seal(partial), top1, top5, num_images)
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


def read_saved_model(folder: Path) -> tuple[SavedModel, ModelInfo]:
    """What `save_model` found, and what it stored; every file of it is as it was written.

    Raises: TrackingError if the run in `folder` has no saved model, or it is damaged.
    """
    path = folder / MODEL
    try:
        saved = SavedModel(**read_json(path / SAVED))
        check_seal(path, digest=saved.files_sha256, required=(WEIGHTS, INFO), ignored=(SAVED,))
        return saved, read_info(path)[0]
    except FileNotFoundError:
        raise TrackingError(
            f"{folder} has no {MODEL}/ to register; it is written at the end of training"
        ) from None
    except (OSError, ValueError, TypeError, SealBroken) as error:
        raise TrackingError(
            f"{path} is not what training wrote there ({error}); the same `trainer train` command writes it again"
        ) from None


def read_info(path: Path) -> tuple[ModelInfo, tuple[Sample, ...]]:
    """Description and samples of the model in the folder `path`, whoever wrote them.

    Raises: ValueError if they are not such, OSError if they are not there.
    """
    known = read_json(path / INFO)
    if not isinstance(known, dict):
        raise ValueError(f"{INFO} is no table")
    try:
        class_ids, classes = (valid_names(known[key], key) for key in ("class_ids", "classes"))
        info = ModelInfo(
            architecture=_text(known["architecture"]),
            class_ids=class_ids,
            classes=classes,
            preprocess=valid_preprocess(known["preprocess"]),
            recipe=_text(known["recipe"]),
            top1=float(known["top1"]),
            top5=float(known["top5"]),
            dataset_digest=_text(known["dataset_digest"]),
        )
        listed = [(_text(one["file"]), _text(one["name"]), one["label"]) for one in known["samples"]]
    except (LookupError, TypeError, ValueError) as error:
        raise ValueError(f"{INFO} does not say what it must: {error}") from None
    labels = range(len(classes))
    if len(class_ids) != len(classes) or any(
        type(label) is not int or label not in labels for *_, label in listed
    ):
        raise ValueError(f"{INFO} has labels or class_ids that fit no class")
    if len(listed) > MOST_SAMPLES or any(
        not file or {*file} & {*"/\\\0"} or file in (".", "..") for file, *_ in listed
    ):
        raise ValueError(f"{INFO} names samples outside of their folder, or too many")
    samples = [Sample(name, read_regular(path / SAMPLES / file), label) for file, name, label in listed]
    return info, tuple(samples)


def _is_saved(path: Path, weights: str) -> bool:
    """Whether these weights are saved in `path` already, and whole."""
    try:
        saved, _ = read_saved_model(path.parent)
    except TrackingError:
        return False
    return saved.weights_sha256 == weights


def _check_pt2(path: Path, network: torch.nn.Module, size: int) -> None:
    """See that the pt2 file, which was written just now and is for others, answers as the network does."""
    import torch

    images = torch.randn(3, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        answers = torch.export.load(path).module()(images), network(images)
    if not torch.allclose(*answers, rtol=1e-3, atol=1e-3):
        raise TrackingError(
            f"{path} answers otherwise than the network it was made of; nothing is registered: report this with its "
            "recipe"
        )


def _text(value: object) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{value!r:.80} is no text")
    return value


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
        pip_requirements=[f"torch=={release(torch.__version__)}", "numpy"],
        serialization_format="pt2",
        metadata={"info": INFO, "samples": SAMPLES, "weights": WEIGHTS, "sums": SUMS},
    )
    write_weights(path / WEIGHTS, model.state_dict())
    (path / SAMPLES).mkdir()
    listed = []
    for file, sample in zip(safe_names([sample.name for sample in samples]), samples, strict=True):
        (path / SAMPLES / file).write_bytes(sample.jpeg)
        listed.append({"file": file, "name": sample.name, "label": sample.label})
    (path / INFO).write_text(json.dumps({**asdict(info), "samples": listed}, indent=2) + "\n")


def _exportable(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of `model` on the CPU, fp32, in eval mode, not compiled; weights stay channels-last if they are.

    torch.export.save warns of channels-last weights, yet they come back bit-equal and in that layout,
    so the same kernels run and the same numbers come out.
    """
    return copy.deepcopy(getattr(model, "_orig_mod", model)).cpu().float().eval().requires_grad_(False)


def release(version: str) -> str:
    """The release that a build belongs to: NGC's 2.14.0a0+4fdf77b940.nv26.08 is on no index, 2.14.0 is."""
    return re.match(r"[\d.]*\d", version)[0]  # type: ignore[index]
