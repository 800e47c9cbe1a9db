"""The ONNX files of a network: opset 17, one file each, with a softmax at the end."""

from __future__ import annotations

import sys
import warnings
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

import torch

from trainer.io_names import INPUT_NAME, OUTPUT_NAME

if TYPE_CHECKING:
    from onnx import ModelProto

OPSET = 17  # the highest that JetPack 5's TensorRT 8.5 reads
IR_VERSION = 8  # of ONNX's file format, that of opset 17


def to_onnx(network: torch.nn.Module, size: int, path: Path) -> None:
    """Write `network` followed by a softmax as one ONNX file of any batch size.

    torch's newer exporter is not used: asked for opset 17 it writes 18, with the weights in a second file.

    Args:
        network: network on the CPU, in eval mode, from (N, 3, size, size) to logits.
        size: side of the input, pixels.
        path: the file to write.
    """
    import onnx

    # In eval mode as a whole, for the exporter puts all of it back into the mode of this outermost module.
    with_softmax = torch.nn.Sequential(network, torch.nn.Softmax(dim=1)).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that exporter's deprecation
        torch.onnx.export(
            with_softmax,
            (torch.zeros(2, 3, size, size),),
            path,
            dynamo=False,
            opset_version=OPSET,
            input_names=[INPUT_NAME],
            output_names=[OUTPUT_NAME],
            dynamic_axes={INPUT_NAME: {0: "N"}, OUTPUT_NAME: {0: "N"}},
        )
    _check(onnx.load(path, load_external_data=False))


def to_batch1(model: Path, path: Path) -> None:
    """Write the ONNX file `model` with a batch size of 1: DLA takes static shapes only."""
    import onnx

    graph = onnx.load(model)
    for tensor in (*graph.graph.input, *graph.graph.output):
        tensor.type.tensor_type.shape.dim[0].dim_value = 1
    del graph.graph.value_info[:]  # which has the batch size too
    save(graph, path)


def to_half(model: Path, path: Path) -> None:
    """Write the ONNX file `model` with weights and activations in half precision; input, softmax and output stay."""
    import onnx

    before = list(sys.path)
    from onnxruntime.quantization.onnx_model import ONNXModel
    from onnxruntime.transformers.float16 import convert_float_to_float16

    sys.path[:] = before  # to which that package adds itself

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a weight is too small for half precision and is rounded
        half = convert_float_to_float16(onnx.load(model), keep_io_types=True, op_block_list=["Softmax"])
    ONNXModel(half).topological_sort()  # its casts stand at the end
    save(half, path)


def save(model: ModelProto, path: Path) -> None:
    """Write a model as one file that names no operators but ONNX's own."""
    import onnx

    own = [opset for opset in model.opset_import if opset.domain in ("", "ai.onnx")]
    del model.opset_import[:]
    model.opset_import.extend(own)
    _check(model)
    onnx.save(model, path)


def unknown_to_tensorrt(path: Path) -> list[str]:
    """The operators of an ONNX file that TensorRT 8.5 does not read, by the list in this package."""
    import onnx

    lines = files("trainer.export").joinpath("tensorrt-8.5-operators.txt").read_text("utf-8").splitlines()
    known = {line for line in lines if not line.startswith("#")}
    return sorted({node.op_type for node in onnx.load(path).graph.node} - known)


def _check(model: ModelProto) -> None:
    import onnx

    onnx.checker.check_model(model)
    opsets = {domain.domain or "ai.onnx": domain.version for domain in model.opset_import}
    assert opsets == {"ai.onnx": OPSET}, opsets
    assert model.ir_version == IR_VERSION, model.ir_version
    assert not any(tensor.external_data for tensor in model.graph.initializer), "weights beside the model"
