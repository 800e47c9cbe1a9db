"""The folder for a Jetson: its files, its checksums, and how it is run here. Needs numpy and ONNX Runtime alone.

model.onnx                 opset 17, one file, float32; input_0 (N, 3, H, W) -> output_0 (N, classes)
model_batch1.onnx          the same for one image at a time, which is what DLA takes
model_fp16.onnx            weights and activations in half precision; input and output stay float32
model_int8.onnx            with QuantizeLinear and DequantizeLinear; only if it is as accurate
model.torchscript.pt, …    other forms, if they were asked for
variants.json              precision, accuracy, difference from PyTorch, size and latency of each
labels.txt                 one class a line, in the order of the outputs
preprocess.json            from a photo to input_0, in two ways, with the accuracy of each; the model's origin
golden/0.jpeg, …           photos of the validation set …
golden/inputs.npy          … the inputs made of them by preprocess.json (N, 3, H, W) …
golden/probabilities.npy   … and the PyTorch model's answers (N, classes)
golden/expected.json       the same in words: the five most likely classes
verify.py, classify.py     what a device runs, from device/: compare it with the golden answers, classify photos …
build_engine.sh, …         … build a TensorRT engine, start jetson-inference
README.txt                 how to use it
SHA256SUMS                 `sha256sum --check SHA256SUMS`
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.errors import ExportError
from trainer.io_names import INPUT_NAME, OUTPUT_NAME
from trainer.sealed import SUMS, SealBroken, check_seal, valid_names, valid_preprocess

MODEL, LABELS, PREPROCESS, VARIANTS = "model.onnx", "labels.txt", "preprocess.json", "variants.json"
INPUTS, PROBABILITIES, EXPECTED = "golden/inputs.npy", "golden/probabilities.npy", "golden/expected.json"
PARTIAL = ".partial"  # of names of folders that are being written
# Of all texts, whatever the locale: names of files and classes may be no UTF-8, and stay as they are.
TEXT: Any = {"encoding": "utf-8", "errors": "surrogateescape"}


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle's network in ONNX Runtime on the CPU. Call it with images to get probabilities."""

    class_ids: tuple[str, ...]  # class folders in label order
    classes: tuple[str, ...]  # their names in words
    preprocess: dict[str, Any]  # as `to_input` takes it; the model's origin is under `model`
    session: Any  # onnxruntime.InferenceSession

    def __call__(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(N, 3, H, W) normalised images to (N, classes) probabilities, none of them 0: their log is finite."""
        return np.maximum(run(self.session, images), np.finfo(np.float32).tiny)


def check_out(out: Path) -> None:
    """Check that a bundle can be written to the folder `out`. Raises: ExportError if something is there."""
    try:
        if out.is_dir():
            if any(path.name != PARTIAL for path in out.iterdir()):
                raise ExportError(f"{out} is not empty; give --out a new folder, or remove it first")
        elif out.exists() or out.is_symlink():
            raise ExportError(f"{out} is a file; give --out a new folder")
    except OSError as error:
        raise ExportError(f"{out} cannot be read: {error.strerror or error}; choose another --out") from None


def is_bundle(path: Path) -> bool:
    """Whether `path` looks like a bundle, sound or not."""
    return (path / MODEL).is_file() or (path / SUMS).is_file()


def load_bundle(path: Path) -> LoadedBundle:
    """Check the bundle in `path` against its SHA256SUMS and make it ready to run.

    Raises: ExportError if it is not a bundle, incomplete, or damaged.
    """
    try:
        # Others may lie there, as the engine that TensorRT makes of the model.
        check_seal(path, required=(MODEL, LABELS, PREPROCESS), ignored=None)
        described = json.loads((path / PREPROCESS).read_bytes())
        preprocess = valid_preprocess(described)
        class_ids = valid_names(described.get("class_ids"), "class_ids")
        classes = tuple((path / LABELS).read_text(**TEXT).removesuffix("\n").split("\n"))  # not splitlines
        if len(classes) != len(class_ids):
            raise ValueError(f"{LABELS} has {len(classes)} lines for {len(class_ids)} classes")
    except SealBroken as error:
        raise ExportError(
            f"{path} is no bundle, incomplete or damaged: {error}; copy or export it again"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise ExportError(
            f"{path} is no bundle of this version of trainer: {PREPROCESS} or {LABELS} does not say what it must "
            f"({error}); export it again"
        ) from None
    try:
        session = open_session(path / MODEL)
        shape = {one.name: one.shape for one in (*session.get_inputs(), *session.get_outputs())}
    except Exception as error:  # onnxruntime's errors have no common base
        raise ExportError(f"{path / MODEL} cannot be run: {' '.join(str(error).split())[:200]}") from None
    size = preprocess["val_size"]
    if shape.get(INPUT_NAME, [])[1:] != [3, size, size] or shape.get(OUTPUT_NAME, [])[1:] != [len(classes)]:
        raise ExportError(
            f"{path / MODEL} is not the network that {PREPROCESS} and {LABELS} describe ({shape}); export it again"
        )
    return LoadedBundle(class_ids, classes, preprocess, session)


def open_session(model: Path) -> Any:
    """The model in ONNX Runtime on the CPU, which reports errors only."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(session: Any, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Probabilities (N, classes) of `images` (N, 3, H, W)."""
    contiguous = np.ascontiguousarray(images, np.float32)
    probabilities: npt.NDArray[np.float32] = session.run([OUTPUT_NAME], {INPUT_NAME: contiguous})[0]
    return probabilities
