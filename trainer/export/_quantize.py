"""INT8 by ONNX Runtime's quantizer: whole numbers where TensorRT wants them, ranges measured on training images.

Not NVIDIA's modelopt, which writes opset 19 and IR 10 for INT8: JetPack 5 reads neither.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer.export._graph import save
from trainer.io_names import INPUT_NAME

QUANTIZED = ["Conv", "Gemm", "Add", "MaxPool", "GlobalAveragePool"]
BATCH = 8  # images at a time: of all layers, outputs are looked at


def to_int8(model: Path, path: Path, images: Iterable[npt.NDArray[np.float32]]) -> None:
    """Write the ONNX file `model` with INT8 between QuantizeLinear and DequantizeLinear, as TensorRT reads it.

    Symmetric, weights by channel; they stay float32 in the file and biases have no numbers of their own, for TensorRT
    quantizes the ones and leaves the others.

    Args:
        model: in float32.
        path: the file to write.
        images: batches (N, 3, H, W) that the ranges of activations are measured on: their largest values.

    Source: NVIDIA, "Working with Quantized Types" (explicit quantization); onnxruntime.ai, quantize_static.
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
    before, root.level = (
        root.level,
        logging.ERROR,
    )  # it advises to preprocess, which torch's exporter has done
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
            },
        )
    finally:
        root.level = before
    save(onnx.load(path), path)


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
