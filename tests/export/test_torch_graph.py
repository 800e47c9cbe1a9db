"""torch runs an ONNX file as ONNX Runtime does, so that a GPU may measure it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from benchmarks.export import TwoPaths
from tests.export.networks import warmed
from trainer.export import to_onnx
from trainer.export._bundle import run
from trainer.export._graph import to_half
from trainer.export._quantize import to_int8
from trainer.export._torch_graph import TorchGraph, UnknownOperator
from trainer.model import build

IMAGES = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(3))
CPU = torch.device("cpu")


def by_the_letter(path: Path, images: np.ndarray) -> np.ndarray:
    """ONNX Runtime operator by operator: by default it fuses those of INT8, and rounds otherwise."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    return run(onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"]), images)


@pytest.fixture(scope="module", params=["resnet18_blurpool", "mobilenet_v3_small", "two paths"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    made = TwoPaths(10) if request.param == "two paths" else build(request.param, 10)
    folder = tmp_path_factory.mktemp("graphs")
    to_onnx(warmed(made, IMAGES), 32, folder / "fp32.onnx")
    to_half(folder / "fp32.onnx", folder / "fp16.onnx")
    to_int8(folder / "fp32.onnx", folder / "int8.onnx", [IMAGES[:8].numpy(), IMAGES[8:].numpy()])
    return folder


@pytest.mark.parametrize(("name", "allowed"), [("fp32", 1e-5), ("fp16", 4e-3), ("int8", 1e-4)])
def test_it_answers_like_onnx_runtime(folder: Path, name: str, allowed: float) -> None:
    """INT8's steps are coarse: a sum that lies between two of them may be rounded to either, image by image."""
    expected = by_the_letter(folder / f"{name}.onnx", IMAGES.numpy())

    answers = TorchGraph(folder / f"{name}.onnx", CPU)(IMAGES).numpy()

    off = np.abs(answers - expected).max(axis=1)
    assert np.median(off) <= allowed
    assert off.max() <= (allowed if name != "int8" else 0.05)
    assert (answers.argmax(axis=1) == expected.argmax(axis=1)).mean() >= 0.9


def test_what_it_does_not_know_it_says(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.PixelShuffle(1), torch.nn.Flatten(), torch.nn.Linear(48, 2))
    to_onnx(network.eval(), 4, tmp_path / "odd.onnx")

    with pytest.raises(UnknownOperator, match="DepthToSpace"):
        TorchGraph(tmp_path / "odd.onnx", CPU)


@pytest.mark.parametrize(
    ("operator", "attributes"),
    [
        ("AveragePool", {"kernel_shape": [2, 2], "auto_pad": "SAME_UPPER"}),
        ("AveragePool", {"kernel_shape": [2, 2], "dilations": [2, 2], "pads": [0, 0]}),
        ("ReduceMean", {}),
    ],
)
def test_a_form_of_an_operator_that_it_does_not_know_is_found_before_it_is_needed(
    tmp_path: Path, operator: str, attributes: dict[str, Any]
) -> None:
    """ONNX Runtime answers instead, but not when a GPU has measured half of the images."""
    given = onnx.helper.make_tensor_value_info("input_0", onnx.TensorProto.FLOAT, ["N", 3, 4, 4])
    answer = onnx.helper.make_tensor_value_info("output_0", onnx.TensorProto.FLOAT, None)
    node = onnx.helper.make_node(operator, ["input_0"], ["output_0"], **attributes)
    onnx.save(
        onnx.helper.make_model(onnx.helper.make_graph([node], "odd", [given], [answer])),
        tmp_path / "odd.onnx",
    )

    with pytest.raises(UnknownOperator):
        TorchGraph(tmp_path / "odd.onnx", CPU)


def test_the_pooling_of_resnet_d_is_known(tmp_path: Path) -> None:
    pool = torch.nn.AvgPool2d(2, stride=2, ceil_mode=True, count_include_pad=False)
    to_onnx(
        torch.nn.Sequential(pool, torch.nn.Flatten(), torch.nn.Linear(27, 4)).eval(), 5, tmp_path / "d.onnx"
    )
    images = IMAGES[:, :, :5, :5].contiguous()

    answers = TorchGraph(tmp_path / "d.onnx", CPU)(images).numpy()
    np.testing.assert_allclose(answers, by_the_letter(tmp_path / "d.onnx", images.numpy()), rtol=0, atol=1e-6)
