"""The folder for a Jetson: its files, its checksums, and how it is run here. Needs numpy and ONNX Runtime alone.

model.onnx                 opset 17, one file, float32; input_0 (N, 3, H, W) -> output_0 (N, classes)
labels.txt                 one class a line, in the order of the outputs
preprocess.json            preprocessing from a photo to input_0, and the model's origin
golden/*.jpeg              photos of the validation set …
golden/inputs.npy          … the inputs made of them by preprocess.json (N, 3, H, W) …
golden/probabilities.npy   … and the PyTorch model's answers (N, classes)
golden/expected.json       the same in words: the five most likely classes
README.txt                 how to use it
SHA256SUMS                 `sha256sum --check SHA256SUMS`
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from trainer.errors import ExportError
from trainer.io_names import INPUT_NAME, OUTPUT_NAME

MODEL, LABELS, PREPROCESS, SUMS = "model.onnx", "labels.txt", "preprocess.json", "SHA256SUMS"
INPUTS, PROBABILITIES, EXPECTED = "golden/inputs.npy", "golden/probabilities.npy", "golden/expected.json"
# Of all texts, whatever the locale: names of files and classes may be no UTF-8, and stay as they are.
TEXT: Any = {"encoding": "utf-8", "errors": "surrogateescape"}


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle's network in ONNX Runtime on the CPU. Call it with images to get probabilities."""

    classes: tuple[str, ...]  # names in label order
    preprocess: dict[str, Any]  # as `to_input` takes it; the model's origin is under `model`
    session: Any  # onnxruntime.InferenceSession

    def __call__(self, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """(N, 3, H, W) normalised images to (N, classes) probabilities, none of them 0: their log is finite."""
        return np.maximum(run(self.session, images), np.finfo(np.float32).tiny)


def is_bundle(path: Path) -> bool:
    """Whether `path` looks like a bundle, sound or not."""
    return (path / MODEL).is_file() or (path / SUMS).is_file()


def load_bundle(path: Path) -> LoadedBundle:
    """Check the bundle in `path` against its SHA256SUMS and make it ready to run.

    Raises: ExportError if it is not a bundle, incomplete, or damaged.
    """
    _check_sums(path)
    try:
        session = open_session(path / MODEL)
    except Exception as error:  # onnxruntime's errors have no common base
        raise ExportError(f"{path / MODEL} cannot be run: {' '.join(str(error).split())[:200]}") from None
    # Not splitlines, which knows more ends of a line than there are.
    classes = tuple((path / LABELS).read_text(**TEXT).removesuffix("\n").split("\n"))
    return LoadedBundle(classes, json.loads((path / PREPROCESS).read_bytes()), session)


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


def write_sums(folder: Path) -> None:
    """Write the SHA-256 of every file in `folder` to SHA256SUMS, in the format of sha256sum."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != SUMS)
    lines = [f"{_sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in files]
    (folder / SUMS).write_text("".join(lines), **TEXT)


def _check_sums(path: Path) -> None:
    try:
        lines = (path / SUMS).read_text(**TEXT).splitlines()
    except (OSError, UnicodeDecodeError):
        raise ExportError(
            f"{path} is not a bundle: it has no readable {SUMS}; make one with `trainer export`"
        ) from None
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    for name in (MODEL, LABELS, PREPROCESS, *sums):
        file = path / name
        if name not in sums or not file.is_file():
            raise ExportError(f"the bundle {path} is incomplete: {name} is missing; export or copy it again")
        if _sha256(file) != sums[name]:
            raise ExportError(f"the bundle {path} is damaged: {name} is not what {SUMS} says; copy it again")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
