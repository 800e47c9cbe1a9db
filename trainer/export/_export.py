"""From a model to a bundle that was compared with it."""

from __future__ import annotations

import json
import math
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from trainer.errors import ExportError
from trainer.export._bundle import (
    EXPECTED,
    INPUTS,
    LABELS,
    MODEL,
    PARTIAL,
    PREPROCESS,
    PROBABILITIES,
    TEXT,
    check_out,
    open_session,
    run,
)
from trainer.export._preprocess import to_input
from trainer.io_names import INPUT_NAME, OUTPUT_NAME
from trainer.model import rebuild
from trainer.preprocess import ROUNDING
from trainer.sealed import SUMS, safe_names, seal
from trainer.tracking import LoadedModel, Sample

OPSET = 17  # the highest that JetPack 5's TensorRT 8.5 reads
GOLDEN = """\
golden/ has photos, the input made of each, and the answers of the PyTorch model. An engine is right
if its answers to golden/inputs.npy are close to golden/probabilities.npy (1e-4 here in float32,
about 1e-2 in half precision) and the first class of each is the one in golden/expected.json.
"""
NO_GOLDEN = """\
There is no golden/ here, for its photos may not be handed on: `trainer export` writes it for whoever has the model.
"""
ALLOWED = 1e-4  # largest difference of a probability between ONNX Runtime and PyTorch


@dataclass(frozen=True)
class Bundle:
    """A bundle that was written and compared with its model."""

    folder: Path
    source: str  # the model: models:/NAME/VERSION, or a path
    samples: int  # number of golden photos
    max_difference: (
        float | None
    )  # largest of a probability, ONNX Runtime against the model; None: it was there before
    size: int  # bytes, all files


def export(model: LoadedModel, out: Path, *, with_photos: bool = True) -> Bundle:
    """Write `model` as a bundle to the new folder `out`: whole, or not at all.

    Args:
        model: a model with samples.
        out: a folder that is empty or does not exist yet.
        with_photos: write the samples, and what is made of them, to `golden/`; they are compared in any case.

    Raises: ExportError if `out` cannot be written, the model has no samples, or ONNX Runtime and PyTorch disagree.
    """
    if not model.samples:
        raise ExportError(
            f"{model.source} has no sample images to compare with; put its data set where it was, or train it again"
        )
    with whole_or_nothing(out) as folder:
        difference = _write(folder, model, with_photos)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Bundle(out, model.source, len(model.samples), difference, size)


def to_onnx(network: torch.nn.Module, size: int, path: Path) -> None:
    """Write `network` followed by a softmax as one ONNX file of any batch size.

    torch's newer exporter is not used: asked for opset 17 it writes 18, with the weights in a second file.

    Args:
        network: network on the CPU, in eval mode, from (N, 3, size, size) to logits.
        size: side of the input, pixels.
        path: the file to write.
    """
    import onnx

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that exporter's deprecation
        torch.onnx.export(
            torch.nn.Sequential(network, torch.nn.Softmax(dim=1)),
            (torch.zeros(2, 3, size, size),),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_axes={INPUT_NAME: {0: "N"}, OUTPUT_NAME: {0: "N"}},
        )
    written = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(written)
    opsets = {domain.domain or "ai.onnx": domain.version for domain in written.opset_import}
    assert opsets == {"ai.onnx": OPSET}, opsets
    assert not any(tensor.external_data for tensor in written.graph.initializer), "weights beside the model"


def _write(folder: Path, model: LoadedModel, with_photos: bool) -> float:
    info, size = model.info, int(model.info.preprocess["val_size"])
    network = rebuild(info.architecture, len(info.classes), model.state_dict)
    inputs = np.stack([_golden_input(model, sample) for sample in model.samples])
    with torch.inference_mode():
        probabilities = network(torch.from_numpy(inputs)).float().softmax(dim=1).numpy()
    to_onnx(network.to(memory_format=torch.contiguous_format), size, folder / MODEL)
    if with_photos:
        _write_golden(folder, model, inputs, probabilities)

    names = [name.replace("\n", " ") for name in info.classes]  # one a line
    (folder / LABELS).write_text("".join(f"{name}\n" for name in names), **TEXT)
    _write_texts(folder, model, with_photos)
    difference = _compare(folder / MODEL, inputs, probabilities, model.source)
    seal(folder)
    return difference


def _golden_input(model: LoadedModel, sample: Sample) -> npt.NDArray[np.float32]:
    try:
        return to_input(sample.jpeg, model.info.preprocess)
    except (OSError, SyntaxError, ValueError) as error:
        raise ExportError(
            f"the sample {sample.name} of {model.source} cannot be decoded ({error}); use another version"
        ) from None


def _write_golden(
    folder: Path, model: LoadedModel, inputs: npt.NDArray[np.float32], probabilities: npt.NDArray[np.float32]
) -> None:
    info = model.info
    photos = [f"golden/{name}" for name in safe_names([sample.name for sample in model.samples])]
    (folder / "golden").mkdir()
    for photo, sample in zip(photos, model.samples, strict=True):
        (folder / photo).write_bytes(sample.jpeg)
    np.save(folder / INPUTS, inputs)
    np.save(folder / PROBABILITIES, probabilities)
    expected = [
        {
            "photo": photo,
            "name": sample.name,
            "label": info.classes[sample.label],
            "top5": [
                {"class": info.classes[i], "index": int(i), "probability": float(of_photo[i])}
                for i in np.argsort(-of_photo, kind="stable")[:5]
            ],
        }
        for photo, sample, of_photo in zip(photos, model.samples, probabilities, strict=True)
    ]
    _write_json(folder / EXPECTED, expected)


def _write_texts(folder: Path, model: LoadedModel, with_photos: bool) -> None:
    info, registered = model.info, model.registered
    _write_json(folder / PREPROCESS, _preprocess_json(model))
    title = f"{registered.name} version {registered.version}" if registered else model.source
    title += ", for NVIDIA Jetson"
    measured = not (math.isnan(info.top1) or math.isnan(info.top5))
    template = files("trainer.export").joinpath("templates/README.txt").read_text("utf-8")
    (folder / "README.txt").write_text(
        template.format(
            title=title,
            line="=" * len(title),
            architecture=info.architecture,
            classes=len(info.classes),
            recipe=info.recipe,
            accuracy=f"top-1 {info.top1:.2%}, top-5 {info.top5:.2%} on the validation set, measured on these weights"
            if measured
            else "not evaluated yet on the validation set",
            origin=f"MLflow run {registered.run_id}" if registered else "not registered in MLflow",
            size=int(info.preprocess["val_size"]),
            input=INPUT_NAME,
            output=OUTPUT_NAME,
            golden=GOLDEN if with_photos else NO_GOLDEN,
        ),
        **TEXT,
    )


def _preprocess_json(model: LoadedModel) -> dict[str, Any]:
    info, registered, size = model.info, model.registered, int(model.info.preprocess["val_size"])
    return {
        **info.preprocess,
        "class_ids": info.class_ids,
        "input": {"name": INPUT_NAME, "shape": ["N", 3, size, size], "type": "float32"},
        "output": {
            "name": OUTPUT_NAME,
            "shape": ["N", len(info.classes)],
            "type": "float32",
            "is": "probabilities",
        },
        "steps": [
            "decode to RGB; EXIF rotation is ignored, alpha dropped, 16 bits become 8 by / 257, rounded",
            f"resize so that the shorter side has {info.preprocess['val_resize']} pixels, bilinear with "
            f"antialiasing; {ROUNDING}",
            f"crop {size} x {size} at the centre; left and top are half of the margin, halves rounded to even",
            "divide by 255, subtract mean, divide by std, channel by channel",
            "order as N, channel, row, column",
        ],
        "model": {
            "source": model.source,
            "name": registered.name if registered else None,
            "version": registered.version if registered else None,
            "run_id": registered.run_id if registered else None,
            "architecture": info.architecture,
            "recipe": info.recipe,
            "top1": None if math.isnan(info.top1) else info.top1,
            "top5": None if math.isnan(info.top5) else info.top5,
            "dataset_digest": info.dataset_digest,
        },
    }


def _compare(
    onnx_model: Path,
    inputs: npt.NDArray[np.float32],
    probabilities: npt.NDArray[np.float32],
    source: str,
) -> float:
    """Largest difference of a probability, all photos at once and one by one.

    Raises: ExportError if it is too large.
    """
    session = open_session(onnx_model)
    at_once = run(session, inputs)
    one_by_one = np.concatenate([run(session, image[None]) for image in inputs])
    difference = float(max(np.abs(at_once - probabilities).max(), np.abs(one_by_one - probabilities).max()))
    if not difference <= ALLOWED:  # also when it is not a number
        raise ExportError(
            f"the ONNX form of {source} answers otherwise than the model: a probability differs by "
            f"{difference:.2g}, {ALLOWED:g} is allowed; nothing was written; report this with the run of the model"
        )
    return difference


@contextmanager
def whole_or_nothing(out: Path) -> Iterator[Path]:
    """A hidden folder to write into; what is in it goes to `out` if all goes well, and is removed otherwise.

    It becomes `out`, or lies in it where that exists: a mount point or somebody's current folder cannot be replaced.
    """
    try:
        check_out(out)
        there, beside = out.is_dir(), out.absolute().with_name(f".{out.absolute().name}{PARTIAL}")
        partial = out / PARTIAL if there else beside
        for left in (partial, beside):  # of an export that was killed
            shutil.rmtree(left, ignore_errors=True)
        partial.mkdir(parents=True)
        try:
            yield partial
            if there:
                # The sums come last: they make it a bundle.
                for path in sorted(partial.iterdir(), key=lambda path: path.name == SUMS):
                    path.replace(out / path.name)
            else:
                partial.replace(out)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise ExportError(
            f"{out} cannot be written: {error.strerror or error}; choose another --out"
        ) from None


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n", **TEXT)
