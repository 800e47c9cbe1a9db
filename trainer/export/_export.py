"""From a registered model to a bundle that was compared with it."""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from trainer.errors import ExportError
from trainer.export._bundle import (
    EXPECTED,
    INPUTS,
    LABELS,
    MODEL,
    PREPROCESS,
    PROBABILITIES,
    open_session,
    run,
    write_sums,
)
from trainer.export._preprocess import to_input
from trainer.model import build
from trainer.tracking import INPUT_NAME, OUTPUT_NAME, LoadedModel, Registered, load

OPSET = 17  # the highest that JetPack 5's TensorRT 8.5 reads
ALLOWED = 1e-4  # largest difference of a probability between ONNX Runtime and PyTorch

README = """\
{name} version {version}, for NVIDIA Jetson
{line}
{architecture}, {classes} classes, recipe {recipe}
top-1 {top1:.2%}, top-5 {top5:.2%} on the validation set, measured on the weights in model.onnx
MLflow run {run_id}

Check the copy     sha256sum --check SHA256SUMS
Build an engine    trtexec --onnx=model.onnx --saveEngine=model.plan --shapes=input_0:1x3x{size}x{size}
                   (TensorRT before 11: add --fp16 for half precision)
jetson-inference   imagenet --model=model.onnx --labels=labels.txt --input_blob=input_0 --output_blob=output_0
                   (it squashes the whole frame where preprocess.json crops: expect other numbers)

input_0   float32, N x 3 x {size} x {size}, RGB, normalised as preprocess.json says
output_0  float32, N x {classes}, probabilities in the order of labels.txt (softmax is in the model)

golden/ has photos, the input made of each, and the answers of the PyTorch model. An engine is right
if its answers to golden/inputs.npy are close to golden/probabilities.npy (1e-4 here in float32,
about 1e-2 in half precision) and the first class of each is the one in golden/expected.json.
"""


@dataclass(frozen=True)
class Bundle:
    """A bundle that was written and compared."""

    folder: Path
    source: Registered
    samples: int  # golden photos
    max_difference: float  # of any probability, ONNX Runtime against the registered model
    size: int  # bytes, all files


def export(uri: str, out: Path, *, runs: Path = Path("runs")) -> Bundle:
    """Write the registered model `uri` as a bundle to the new folder `out`: whole, or not at all.

    Args:
        uri: as `trainer.tracking.load` takes it.
        out: must not be there yet, or be empty.
        runs: where to find the MLflow file, if MLFLOW_TRACKING_URI names no server.

    Raises:
        TrackingError: if there is no such model.
        ExportError: if `out` cannot be written, or ONNX Runtime and PyTorch disagree.
    """
    _check_free(out)
    model = load(uri, runs=runs)
    if not model.samples:
        raise ExportError(
            f"{model.source.uri} has no sample images to compare with; train and register it again"
        )
    with _whole_or_nothing(out) as folder:
        difference = _write(folder, model)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return Bundle(out, model.source, len(model.samples), difference, size)


def to_onnx(network: torch.nn.Module, size: int, path: Path) -> None:
    """Write `network` followed by a softmax as one ONNX file of any batch size.

    torch's newer exporter is not used: asked for opset 17 it writes 18, with the weights in a second file.

    Args:
        network: on the CPU, in eval mode, from (N, 3, size, size) to logits.
        size: side of the input, pixels.
        path: where to.
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


def _write(folder: Path, model: LoadedModel) -> float:
    facts, size = model.facts, int(model.facts.images["val_size"])
    network = build(facts.architecture, len(facts.classes))
    network.load_state_dict(model.state_dict)
    to_onnx(network.eval().to(memory_format=torch.contiguous_format), size, folder / MODEL)

    (folder / "golden").mkdir()
    for sample in model.samples:
        (folder / "golden" / sample.name).write_bytes(sample.jpeg)
    inputs = np.stack([to_input(sample.jpeg, facts.images) for sample in model.samples])
    with torch.inference_mode():
        probabilities = model.module(torch.from_numpy(inputs)).float().softmax(dim=1).numpy()
    np.save(folder / INPUTS, inputs)
    np.save(folder / PROBABILITIES, probabilities)

    (folder / LABELS).write_text("".join(f"{name}\n" for name in facts.classes))
    _write_words(folder, model, probabilities)
    difference = _compare(folder / MODEL, inputs, probabilities, model.source)
    write_sums(folder)
    return difference


def _write_words(folder: Path, model: LoadedModel, probabilities: npt.NDArray[np.float32]) -> None:
    facts, source, size = model.facts, model.source, int(model.facts.images["val_size"])
    expected = [
        {
            "photo": f"golden/{sample.name}",
            "label": facts.classes[sample.label],
            "top5": [
                {"class": facts.classes[i], "index": int(i), "probability": float(of_photo[i])}
                for i in np.argsort(-of_photo, kind="stable")[:5]
            ],
        }
        for sample, of_photo in zip(model.samples, probabilities, strict=True)
    ]
    _write_json(folder / EXPECTED, expected)
    how = {
        **facts.images,
        "input": {"name": INPUT_NAME, "shape": ["N", 3, size, size], "type": "float32"},
        "output": {
            "name": OUTPUT_NAME,
            "shape": ["N", len(facts.classes)],
            "type": "float32",
            "is": "probabilities",
        },
        "steps": [
            "decode to RGB, EXIF rotation ignored",
            f"resize so that the shorter side has {facts.images['val_resize']} pixels, bilinear with antialiasing",
            f"crop {size} x {size} at the centre",
            "divide by 255, subtract mean, divide by std, channel by channel",
            "order as N, channel, row, column",
        ],
        "model": {
            "name": source.name,
            "version": source.version,
            "run_id": source.run_id,
            "architecture": facts.architecture,
            "recipe": facts.recipe,
            "top1": facts.top1,
            "top5": facts.top5,
            "dataset_digest": facts.dataset_digest,
        },
    }
    _write_json(folder / PREPROCESS, how)
    title = f"{source.name} version {source.version}, for NVIDIA Jetson"
    (folder / "README.txt").write_text(
        README.format(
            name=source.name,
            version=source.version,
            line="=" * len(title),
            architecture=facts.architecture,
            classes=len(facts.classes),
            recipe=facts.recipe,
            top1=facts.top1,
            top5=facts.top5,
            run_id=source.run_id,
            size=size,
        )
    )


def _compare(
    onnx_model: Path,
    inputs: npt.NDArray[np.float32],
    probabilities: npt.NDArray[np.float32],
    source: Registered,
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
            f"the ONNX form of {source.uri} answers otherwise than the model: a probability differs by "
            f"{difference:.2g}, {ALLOWED:g} is allowed; nothing was written, report this with the model's run"
        )
    return difference


def _check_free(out: Path) -> None:
    if out.is_dir():
        if any(out.iterdir()):
            raise ExportError(f"{out} is not empty; give --out a new folder, or remove it first")
        if out.is_mount():
            raise ExportError(
                f"{out} is a mount point and cannot be replaced; give a folder inside, --out {out}/NAME"
            )
    elif out.exists() or out.is_symlink():
        raise ExportError(f"{out} is a file; give --out a new folder")


@contextmanager
def _whole_or_nothing(out: Path) -> Iterator[Path]:
    """A folder to fill beside `out`, which takes its place when all went well and vanishes otherwise."""
    beside = out.absolute().with_name(f".{out.absolute().name}.partial")
    try:
        shutil.rmtree(beside, ignore_errors=True)  # of an export that was killed
        beside.mkdir(parents=True)
        yield beside
        beside.replace(out)
    except OSError as error:
        raise ExportError(
            f"{out} cannot be written: {error.strerror or error}; choose another --out"
        ) from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
