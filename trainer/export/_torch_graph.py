"""An ONNX file run by torch, so that a GPU can answer for it: ONNX Runtime is here for the CPU alone.

It knows the operators of residual networks and the like, as ONNX defines them; of what it does not know, it says so.
Source: onnx.ai/onnx/operators, opset 17.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch.nn import functional as F

from trainer.io_names import INPUT_NAME, OUTPUT_NAME

Tensor = torch.Tensor
Attributes = dict[str, Any]


class UnknownOperator(Exception):
    """The file has an operator, or a form of one, that is not known here."""


class TorchGraph:
    """The network of an ONNX file on a device: (N, 3, H, W) float32 images to (N, classes) probabilities."""

    def __init__(self, path: Path, device: torch.device) -> None:
        """Read the file, and answer one image: some forms of an operator show themselves only then.

        Raises: UnknownOperator.
        """
        import onnx
        from onnx import helper, numpy_helper

        graph = onnx.load(path).graph
        # A copy, for some arrays are views of the file's bytes, which cannot be written.
        self._known: dict[str, Tensor] = {
            one.name: torch.from_numpy(numpy_helper.to_array(one).copy()).to(device)
            for one in graph.initializer
        }
        self._nodes: list[tuple[Callable[..., Tensor], list[str], str, Attributes]] = []
        for node in graph.node:
            attributes = {one.name: helper.get_attribute_value(one) for one in node.attribute}
            if node.op_type == "Constant" and "value" in attributes:
                value = numpy_helper.to_array(attributes["value"]).copy()
                self._known[node.output[0]] = torch.from_numpy(value).to(device)
                continue
            operator = OPERATORS.get(node.op_type)
            if operator is None or len(node.output) != 1:
                raise UnknownOperator(node.op_type)
            name, inputs = node.output[0], list(node.input)
            if all(one in self._known for one in inputs):  # as weights that are quantized
                self._known[name] = _run(operator, [self._known[one] for one in inputs], name, attributes)
            else:
                self._nodes.append((operator, inputs, name, attributes))
        last_use = {one: index for index, (_, inputs, *_) in enumerate(self._nodes) for one in inputs}
        self._over: list[list[str]] = [[] for _ in self._nodes]  # what nobody needs after a node
        for name, index in last_use.items():
            if name not in self._known:
                self._over[index].append(name)
        (shape,) = (one.type.tensor_type.shape for one in graph.input if one.name == INPUT_NAME)
        self(torch.zeros(1, *(one.dim_value for one in shape.dim[1:]), device=device))

    @torch.inference_mode()
    def __call__(self, images: Tensor) -> Tensor:
        """Probabilities (N, classes) of images (N, 3, H, W)."""
        values = {INPUT_NAME: images, "": None}  # an input that is left out has no name
        for (operator, inputs, name, attributes), over in zip(self._nodes, self._over, strict=True):
            given = [self._known[one] if one in self._known else values[one] for one in inputs]
            values[name] = _run(operator, given, name, attributes)
            for one in over:
                if one:
                    del values[one]
        answer = values[OUTPUT_NAME]
        assert answer is not None
        return answer


def _run(
    operator: Callable[..., Tensor], inputs: Sequence[Tensor | None], name: str, attributes: Attributes
) -> Tensor:
    try:
        return operator(*inputs, **attributes)
    except (
        TypeError,
        ValueError,
        LookupError,
    ) as error:  # attributes or inputs that are none of those written here
        raise UnknownOperator(f"an unknown form of what makes {name} ({error})") from error


def _conv(x: Tensor, weight: Tensor, bias: Tensor | None = None, **given: Any) -> Tensor:
    if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or weight.dim() != 4:
        raise UnknownOperator(f"Conv with {given}")
    x, padding = _padded(x, given.get("pads", [0] * 4), 0.0)
    return F.conv2d(
        x,
        weight,
        bias,
        stride=given.get("strides", 1),
        padding=padding,
        dilation=given.get("dilations", 1),
        groups=given.get("group", 1),
    )


def _max_pool(x: Tensor, **given: Any) -> Tensor:
    if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or len(given["kernel_shape"]) != 2:
        raise UnknownOperator(f"MaxPool with {given}")
    x, padding = _padded(x, given.get("pads", [0] * 4), float("-inf"))
    return F.max_pool2d(
        x,
        given["kernel_shape"],
        stride=given.get("strides", 1),
        padding=padding,
        dilation=given.get("dilations", 1),
        ceil_mode=bool(given.get("ceil_mode", 0)),
    )


def _average_pool(x: Tensor, **given: Any) -> Tensor:
    top, left, bottom, right = given.get("pads", [0] * 4)
    if given.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID") or (top, left) != (bottom, right):
        raise UnknownOperator(f"AveragePool with {given}")
    return F.avg_pool2d(
        x,
        given["kernel_shape"],
        stride=given.get("strides", 1),
        padding=(top, left),
        ceil_mode=bool(given.get("ceil_mode", 0)),
        count_include_pad=bool(given.get("count_include_pad", 0)),
    )


def _padded(x: Tensor, pads: Sequence[int], value: float) -> tuple[Tensor, tuple[int, int]]:
    """The image, and the padding that is left to do on both sides alike."""
    top, left, bottom, right = pads
    if (top, left) == (bottom, right):
        return x, (top, left)
    return F.pad(x, (left, right, top, bottom), value=value), (0, 0)


def _gemm(a: Tensor, b: Tensor, c: Tensor | None = None, **given: Any) -> Tensor:
    a = a.T if given.get("transA") else a
    b = b.T if given.get("transB") else b
    product: Tensor = given.get("alpha", 1.0) * (a @ b)
    return product if c is None else product + given.get("beta", 1.0) * c


def _quantize(x: Tensor, scale: Tensor, zero: Tensor, *, axis: int = 1) -> Tensor:
    if zero.dtype not in (torch.int8, torch.uint8):
        raise UnknownOperator(f"QuantizeLinear to {zero.dtype}")
    limits = torch.iinfo(zero.dtype)
    steps = (x / _along(scale, x, axis)).round() + _along(zero, x, axis)  # halves to even, as ONNX says
    return steps.clamp(
        limits.min, limits.max
    )  # whole numbers, but as floats: GPUs have no convolution of int8


def _dequantize(x: Tensor, scale: Tensor, zero: Tensor, *, axis: int = 1) -> Tensor:
    return (x - _along(zero, x, axis)) * _along(scale, x, axis)


def _along(of_channels: Tensor, x: Tensor, axis: int) -> Tensor:
    """One number, or one a channel, so that it spreads over `x`."""
    return of_channels if of_channels.dim() == 0 else of_channels.reshape([-1] + [1] * (x.dim() - 1 - axis))


def _cast(x: Tensor, *, to: int) -> Tensor:
    kinds = {1: torch.float32, 6: torch.int32, 7: torch.int64, 9: torch.bool, 10: torch.float16}
    if to not in kinds:
        raise UnknownOperator(f"Cast to {to}")
    return x.to(kinds[to])


def _reduce_mean(x: Tensor, *, axes: Sequence[int], keepdims: int = 1) -> Tensor:
    return x.mean(dim=tuple(axes), keepdim=bool(keepdims))


def _batch_norm(x: Tensor, *weights: Tensor, epsilon: float = 1e-5, **given: Any) -> Tensor:
    scale, bias, mean, var = weights
    if given.get("training_mode", 0):
        raise UnknownOperator("BatchNormalization in training mode")
    return F.batch_norm(x, mean, var, scale, bias, eps=epsilon)


def _clip(x: Tensor, low: Tensor | None = None, high: Tensor | None = None) -> Tensor:
    return x if low is None and high is None else torch.clamp(x, low, high)


OPERATORS: dict[str, Callable[..., Tensor]] = {
    "Add": torch.add,
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": lambda *parts, axis: torch.cat(parts, dim=axis),
    "Conv": _conv,
    "DequantizeLinear": _dequantize,
    "Flatten": lambda x, axis=1: x.reshape(math.prod(x.shape[:axis]), -1),
    "Gemm": _gemm,
    "GlobalAveragePool": lambda x: x.mean(dim=(2, 3), keepdim=True),
    "HardSigmoid": lambda x, alpha=0.2, beta=0.5: (alpha * x + beta).clamp(0, 1),
    "HardSwish": F.hardswish,
    "Identity": lambda x: x,
    "MatMul": torch.matmul,
    "MaxPool": _max_pool,
    "Mul": torch.mul,
    "QuantizeLinear": _quantize,
    "ReduceMean": _reduce_mean,
    "Relu": torch.relu,
    "Sigmoid": torch.sigmoid,
    "Softmax": lambda x, axis=-1: torch.softmax(x, dim=axis),
    "Sub": torch.sub,
}
