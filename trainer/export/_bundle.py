"""The folder a Jetson gets: what is in it, how it is sealed, and how it is run here.

model.onnx                 opset 17, one file, float32; input_0 (N, 3, H, W) -> output_0 (N, classes)
labels.txt                 one class a line, in the order of the outputs
preprocess.json            how to make input_0 from a photo, and where the model comes from
golden/*.jpeg              photos of the validation set …
golden/inputs.npy          … what becomes of them by preprocess.json (N, 3, H, W) …
golden/probabilities.npy   … and what the registered PyTorch model says to them (N, classes)
golden/expected.json       the same in words: the five most likely classes
README.txt                 what to do with it
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
import torch

from trainer.errors import ExportError
from trainer.tracking import INPUT_NAME, OUTPUT_NAME

MODEL, LABELS, PREPROCESS, SUMS = "model.onnx", "labels.txt", "preprocess.json", "SHA256SUMS"
INPUTS, PROBABILITIES, EXPECTED = "golden/inputs.npy", "golden/probabilities.npy", "golden/expected.json"


@dataclass(frozen=True)
class LoadedBundle:
    """A bundle's network in ONNX Runtime on the CPU. Call it with images to get probabilities."""

    classes: tuple[str, ...]  # in label order
    images: dict[str, Any]  # the preprocessing, and the model's origin under `model`
    session: Any  # onnxruntime.InferenceSession

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """(N, 3, H, W) normalised images to (N, classes) probabilities, none of them 0: their log is finite."""
        probabilities = run(self.session, images.float().contiguous().cpu().numpy())
        return torch.from_numpy(probabilities).clamp_min(torch.finfo(torch.float32).tiny).to(images.device)


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
    classes = tuple((path / LABELS).read_text().splitlines())
    return LoadedBundle(classes, json.loads((path / PREPROCESS).read_text()), session)


def open_session(model: Path) -> Any:
    """ONNX Runtime on the CPU, without its chatter."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors only
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def run(session: Any, images: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Probabilities (N, classes) of `images` (N, 3, H, W)."""
    probabilities: npt.NDArray[np.float32] = session.run([OUTPUT_NAME], {INPUT_NAME: images})[0]
    return probabilities


def write_sums(folder: Path) -> None:
    """Seal `folder`: the SHA-256 of every file in it, as sha256sum writes and reads them."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != SUMS)
    lines = [f"{_sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in files]
    (folder / SUMS).write_text("".join(lines))


def _check_sums(path: Path) -> None:
    try:
        lines = (path / SUMS).read_text().splitlines()
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
