"""What somebody may change in a bundle, so that it is another network than was trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx


def change_json(path: Path, change: Callable[[Any], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def one_weight(folder: Path) -> None:
    """The exponent of one weight of the first convolution, which every photo meets."""
    model = onnx.load(folder / "model.onnx")
    first = next(one for one in model.graph.initializer if len(one.dims) == 4 and one.dims[1] == 3)
    data = bytearray(first.raw_data)
    data[3] ^= 0x40
    first.raw_data = bytes(data)
    onnx.save(model, folder / "model.onnx")


def without_the_digest_of_the_labels(folder: Path) -> None:
    change_json(folder / "preprocess.json", lambda has: has.pop("labels_sha256"))


def one_label(folder: Path) -> None:
    without_the_digest_of_the_labels(folder)
    names = (folder / "labels.txt").read_text().splitlines()
    seen = json.loads((folder / "golden/expected.json").read_text())[0]["top5"][4]["index"]
    names[seen] = "wolf"
    (folder / "labels.txt").write_text("\n".join(names) + "\n")


def two_labels(folder: Path) -> None:
    without_the_digest_of_the_labels(folder)
    names = (folder / "labels.txt").read_text().splitlines()
    (folder / "labels.txt").write_text("\n".join(reversed(names)) + "\n")


def the_mean(folder: Path) -> None:
    change_json(folder / "preprocess.json", lambda has: has.update(mean=[0.486, 0.456, 0.406]))


def channels_of_the_statistics(folder: Path) -> None:
    change_json(
        folder / "preprocess.json",
        lambda has: has.update(mean=has["mean"][::-1], std=has["std"][::-1]),
    )


def channels_of_the_inputs(folder: Path) -> None:
    np.save(folder / "golden/inputs.npy", np.load(folder / "golden/inputs.npy")[:, ::-1])


def channels_of_the_network(folder: Path) -> None:
    model = onnx.load(folder / "model.onnx")
    (first,) = (one for one in model.graph.initializer if list(one.dims)[1:] == [3, 3, 3])
    weights = onnx.numpy_helper.to_array(first)[:, ::-1].copy()
    first.CopyFrom(onnx.numpy_helper.from_array(weights, first.name))
    onnx.save(model, folder / "model.onnx")


def channels_of_the_program(folder: Path) -> None:
    text = (folder / "verify.py").read_text()
    assert "pixels.transpose" in text
    (folder / "verify.py").write_text(text.replace("pixels.transpose", "pixels[..., ::-1].transpose"))


def nothing_but_nan(folder: Path) -> None:
    np.save(folder / "golden/probabilities.npy", np.load(folder / "golden/probabilities.npy") * np.nan)
