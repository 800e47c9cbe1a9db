"""INT8 by ONNX Runtime's quantizer: whole numbers where TensorRT wants them, ranges measured on training images.

Not NVIDIA's modelopt, which writes opset 19 and IR 10 for INT8: JetPack 5 reads neither.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from trainer.export._graph import save
from trainer.io_names import INPUT_NAME

if TYPE_CHECKING:
    from onnx import ModelProto, NodeProto

QUANTIZED = ["Conv", "Gemm", "Add", "MaxPool", "GlobalAveragePool"]
FUSED = ["Conv", "Gemm", "Add"]  # by TensorRT with the Relu or Add that follows, if no Q/DQ stands in between
BATCH = 8  # images at a time: of all layers, outputs are looked at


def to_int8(model: Path, path: Path, images: Iterable[npt.NDArray[np.float32]]) -> None:
    """Write the ONNX file `model` with INT8 between QuantizeLinear and DequantizeLinear, as TensorRT reads it.

    Symmetric, weights by channel; they stay float32 in the file and biases have no numbers of their own, for TensorRT
    quantizes the ones and leaves the others.

    Args:
        model: in float32.
        path: the file to write.
        images: batches (N, 3, H, W) that the ranges of activations are measured on: their largest values.

    Source: NVIDIA, "Working with Quantized Types" (Q/DQ placement); onnxruntime.ai, quantize_static.
    """
    import onnx
    from onnxruntime.quantization import (
        CalibrationDataReader,
        CalibrationMethod,
        QuantFormat,
        QuantType,
        quantize_static,
    )

    batches = iter(images)

    class Reader(CalibrationDataReader):  # type: ignore[misc] # it has no types
        def get_next(self) -> dict[str, npt.NDArray[np.float32]] | None:
            batch = next(batches, None)
            return None if batch is None else {INPUT_NAME: batch}

    root = logging.getLogger()
    before = root.level
    root.setLevel(logging.ERROR)  # it advises to preprocess, which torch's exporter has done
    try:
        quantize_static(
            model,
            path,
            Reader(),
            quant_format=QuantFormat.QDQ,
            op_types_to_quantize=QUANTIZED,
            per_channel=True,
            activation_type=QuantType.QInt8,
            weight_type=QuantType.QInt8,
            calibrate_method=CalibrationMethod.MinMax,
            extra_options={
                "ActivationSymmetric": True,
                "WeightSymmetric": True,
                "AddQDQPairToWeight": True,
                "DedicatedQDQPair": True,
                "QuantizeBias": False,
                "OpTypesToExcludeOutputQuantization": FUSED,
            },
        )
    finally:
        root.setLevel(before)  # the attribute alone would leave what each logger remembers of it
    made = onnx.load(path)
    _leave_sums_to_convolutions(made)
    save(made, path)


def _leave_sums_to_convolutions(model: ModelProto) -> None:
    """Take the Q/DQ between a convolution and an Add away, so that TensorRT adds the other input in the convolution."""
    made_by = {node.output[0]: node for node in model.graph.node}

    def of_convolution(name: str) -> list[NodeProto]:
        chain: list[NodeProto] = []
        for kind in ("DequantizeLinear", "QuantizeLinear", "Conv"):
            if name not in made_by or made_by[name].op_type != kind:
                return []
            chain.append(made_by[name])
            name = made_by[name].input[0]
        return chain

    for add in [node for node in model.graph.node if node.op_type == "Add"]:
        # One only: the other input stays quantized, as NVIDIA advises for what skips a block.
        for index, name in enumerate(add.input):
            if chain := of_convolution(name):
                dequantize, quantize, convolution = chain
                add.input[index] = convolution.output[0]
                model.graph.node.remove(dequantize)
                model.graph.node.remove(quantize)
                break


def balanced(labels: npt.NDArray[np.int64], count: int) -> npt.NDArray[np.int64]:
    """Positions of `count` images with as many of each class as of any other, as far as they reach; always the same.

    With more classes than images, some have one and the others none.

    Args:
        labels: class of each image, (N,).
        count: images to choose; all if there are fewer.
    """
    order = np.random.default_rng(0).permutation(len(labels))
    by_class = order[np.argsort(labels[order], kind="stable")]
    sorted_labels = labels[by_class]
    within = np.arange(len(labels)) - np.searchsorted(
        sorted_labels, sorted_labels
    )  # 0 is the class's first image
    shuffled = np.random.default_rng(1).permutation(
        len(labels)
    )  # or else the first classes would be preferred
    chosen = shuffled[np.argsort(within[shuffled], kind="stable")][:count]
    return np.sort(by_class[chosen])
