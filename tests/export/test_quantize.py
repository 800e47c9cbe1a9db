"""INT8 is calibrated on the classes alike, and written as TensorRT wants it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import numpy_helper

from tests.export.networks import warmed
from tests.nets import Small
from trainer.export import to_onnx
from trainer.export._quantize import balanced, to_int8
from trainer.model import build

IMAGES = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(3))


@given(st.lists(st.integers(0, 4), min_size=1, max_size=60), st.integers(1, 70))
def test_no_class_has_two_images_more_than_one_that_has_some_left(labels: list[int], count: int) -> None:
    of = np.array(sorted(labels))
    chosen = balanced(of, count)

    assert len(set(chosen.tolist())) == len(chosen) == min(count, len(of))
    taken, there = np.bincount(of[chosen], minlength=5), np.bincount(of, minlength=5)
    some_left = taken[taken < there]
    assert not len(some_left) or taken.max() <= some_left.min() + 1
    assert balanced(of, count).tolist() == chosen.tolist()


def test_weights_stay_float32_scales_are_by_channel_and_zero_is_zero(tmp_path: Path) -> None:
    torch.manual_seed(0)
    to_onnx(warmed(Small(5), IMAGES), 32, tmp_path / "model.onnx")
    to_int8(tmp_path / "model.onnx", tmp_path / "int8.onnx", [IMAGES.numpy()])

    model = onnx.load(tmp_path / "int8.onnx")
    numbers = {one.name: numpy_helper.to_array(one) for one in model.graph.initializer}
    of_weights = [
        node for node in model.graph.node if node.op_type == "QuantizeLinear" and node.input[0] in numbers
    ]
    zeros = [numbers[node.input[2]] for node in model.graph.node if node.op_type.endswith("QuantizeLinear")]
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert len(of_weights) == 3
    assert all(numbers[node.input[0]].dtype == np.float32 for node in of_weights)
    assert all(len(numbers[node.input[1]]) == len(numbers[node.input[0]]) for node in of_weights)
    assert all(zero.dtype == np.int8 and not zero.any() for zero in zeros)
    biases = {node.input[2] for node in model.graph.node if node.op_type in ("Conv", "Gemm")}
    assert all(numbers[name].dtype == np.float32 for name in biases)


def test_who_has_logged_meanwhile_may_log_afterwards(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    logger = logging.getLogger("tests.export.meanwhile")

    def batches() -> Iterator[np.ndarray]:
        logger.info("is not heard")
        yield IMAGES.numpy()

    to_onnx(warmed(Small(5), IMAGES), 32, tmp_path / "model.onnx")
    to_int8(tmp_path / "model.onnx", tmp_path / "int8.onnx", batches())
    logger.info("is heard")

    assert [one.message for one in caplog.records if one.name == logger.name] == ["is heard"]


def test_nothing_stands_between_what_tensorrt_fuses(tmp_path: Path) -> None:
    """Conv and Relu; Conv, Add and Relu, whose other input is quantized; and the logits are not rounded to steps."""
    torch.manual_seed(0)
    to_onnx(warmed(build("resnet18", 5), IMAGES), 32, tmp_path / "model.onnx")
    to_int8(tmp_path / "model.onnx", tmp_path / "int8.onnx", [IMAGES.numpy()])

    nodes = onnx.load(tmp_path / "int8.onnx").graph.node
    made_by = {node.output[0]: node.op_type for node in nodes}
    taken_by = {kind: [node for node in nodes if node.op_type == kind] for kind in ("Relu", "Add", "Softmax")}
    assert {made_by[node.input[0]] for node in taken_by["Relu"]} == {"Conv", "Add"}
    assert [sorted(made_by[name] for name in node.input) for node in taken_by["Add"]] == 8 * [
        ["Conv", "DequantizeLinear"]
    ]
    assert [made_by[node.input[0]] for node in taken_by["Softmax"]] == ["Gemm"]
    weighted = [node for node in nodes if node.op_type in ("Conv", "Gemm")]
    assert all(made_by[name] == "DequantizeLinear" for node in weighted for name in node.input[:2])


@pytest.mark.parametrize("count", [1, 3])
def test_more_classes_than_images_have_one_or_none(count: int) -> None:
    assert len(balanced(np.arange(10), count)) == count
