"""The ONNX files are what the oldest TensorRT reads, and say what the network says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from benchmarks.export import TwoPaths
from tests.export.networks import warmed
from trainer.export import to_onnx
from trainer.export._bundle import open_session, run
from trainer.export._graph import to_batch1, to_half, unknown_to_tensorrt
from trainer.export._parity import largest_difference
from trainer.model import build

IMAGES = torch.randn(7, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@pytest.fixture(scope="module", params=["resnet18_blurpool", "two paths"])
def network(request: pytest.FixtureRequest) -> torch.nn.Module:
    torch.manual_seed(0)
    made = TwoPaths(10) if request.param == "two paths" else build(request.param, 10)
    return warmed(made, IMAGES)


@pytest.fixture(scope="module")
def folder(network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("graphs")
    to_onnx(network, 32, folder / "model.onnx")
    to_batch1(folder / "model.onnx", folder / "batch1.onnx")
    to_half(folder / "model.onnx", folder / "half.onnx")
    return folder


@pytest.fixture(scope="module")
def expected(network: torch.nn.Module) -> np.ndarray:
    with torch.inference_mode():
        return network(IMAGES).softmax(dim=1).numpy()


def test_the_exporter_leaves_the_network_in_eval_mode(network: torch.nn.Module, folder: Path) -> None:
    assert not any(module.training for module in network.modules())


@pytest.mark.parametrize("name", ["model", "batch1", "half"])
def test_each_is_one_file_of_opset_17_and_ir_8_with_no_foreign_operators(folder: Path, name: str) -> None:
    model = onnx.load(folder / f"{name}.onnx", load_external_data=False)

    assert [(one.domain, one.version) for one in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    kinds = [one.type.tensor_type.elem_type for one in (*model.graph.input, *model.graph.output)]
    assert kinds == [onnx.TensorProto.FLOAT] * 2
    assert unknown_to_tensorrt(folder / f"{name}.onnx") == []


@pytest.mark.parametrize("batch", [1, 2, 7])
def test_float32_answers_like_pytorch_and_half_precision_nearly(
    folder: Path, expected: np.ndarray, batch: int
) -> None:
    some, answers = IMAGES[:batch].numpy(), expected[:batch]

    assert expected.std(axis=0).max() > 1e-3  # the images can be told apart
    assert largest_difference(folder / "model.onnx", some, answers) <= 1e-5
    assert largest_difference(folder / "half.onnx", some, answers) <= 2e-3


def test_no_weight_of_half_precision_is_float32(folder: Path) -> None:
    stored = onnx.load(folder / "half.onnx").graph.initializer

    assert {one.data_type for one in stored} <= {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT64}


def test_the_twin_takes_one_image_and_no_more(folder: Path, expected: np.ndarray) -> None:
    session = open_session(folder / "batch1.onnx")

    assert session.get_inputs()[0].shape == [1, 3, 32, 32]
    np.testing.assert_allclose(run(session, IMAGES[:1].numpy()), expected[:1], rtol=0, atol=1e-5)
    with pytest.raises(Exception, match="Got: 2 Expected: 1"):
        run(session, IMAGES[:2].numpy())


def test_an_operator_that_tensorrt_does_not_read_is_named(tmp_path: Path) -> None:
    network = torch.nn.Sequential(torch.nn.Hardswish(), torch.nn.Flatten(), torch.nn.Linear(48, 2))
    to_onnx(network.eval(), 4, tmp_path / "odd.onnx")

    assert unknown_to_tensorrt(tmp_path / "odd.onnx") == ["HardSwish"]
