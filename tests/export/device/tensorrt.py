"""Stands in for NVIDIA's `tensorrt` package: what verify.py calls of it, run by ONNX Runtime.

Its engines are those of the stand-in `trtexec`: a line, then the model. "Device" memory is the host's, by the address.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

import numpy as np
import onnxruntime

__version__ = os.environ.get("TENSORRT_VERSION", "10.3.0")
MAX_BATCH = 2  # fewer than there are golden photos


class Logger:
    """TensorRT's logger."""

    ERROR = 1

    def __init__(self, severity: int) -> None:
        self.severity = severity


class Runtime:
    """Loads engines."""

    def __init__(self, logger: Logger) -> None:
        self.logger = logger

    def deserialize_cuda_engine(self, engine: bytes) -> Engine | None:
        """An engine; None if it is none."""
        line, _, model = engine.partition(b"\n")
        return Engine(model) if line.startswith(b"engine of TensorRT") else None


class Engine:
    """ICudaEngine, of a network with a dynamic batch."""

    def __init__(self, model: bytes) -> None:
        self.session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])

    def create_execution_context(self) -> Context:
        """A context of its own."""
        return Context(self)

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        """Shape of a blob, -1 where it is dynamic."""
        blobs = [*self.session.get_inputs(), *self.session.get_outputs()]
        (shape,) = (blob.shape for blob in blobs if blob.name == name)
        return tuple(one if isinstance(one, int) else -1 for one in shape)

    def get_tensor_profile_shape(self, name: str, profile: int) -> list[tuple[int, ...]]:
        """Smallest, usual and largest shape."""
        rest = self.get_tensor_shape(name)[1:]
        return [(batch, *rest) for batch in (1, MAX_BATCH, MAX_BATCH)]


class Context:
    """IExecutionContext."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._shape: tuple[int, ...] = ()
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """The shape of the next run."""
        self._shape = shape
        return 1 <= shape[0] <= MAX_BATCH

    def set_tensor_address(self, name: str, address: int) -> bool:
        """Where a blob lies."""
        self._addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        """Run it."""
        if not 1 <= self._shape[0] <= MAX_BATCH or not stream:
            return False
        given: Any = (ctypes.c_float * int(np.prod(self._shape))).from_address(self._addresses["input_0"])
        images = np.ctypeslib.as_array(given).reshape(self._shape)
        answer = self._engine.session.run(["output_0"], {"input_0": images})[0]
        ctypes.memmove(self._addresses["output_0"], answer.ctypes.data, answer.nbytes)
        return True
