"""Weights as safetensors: names, shapes and numbers, and nothing that a reader could run."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import TrackingError

if TYPE_CHECKING:
    import torch

WEIGHTS = "weights.safetensors"


def write_weights(path: Path, weights: Mapping[str, torch.Tensor]) -> None:
    """Write `weights`, on the CPU, to the file `path`.

    Raises: TrackingError if there is something among them that is no tensor.
    """
    import torch
    from safetensors.torch import save_file

    if odd := [name for name, value in weights.items() if not isinstance(value, torch.Tensor)]:
        raise TrackingError(
            f"the network's state_dict() has {odd[0]}, which is no tensor; keep such state out of it to have the "
            "network registered"
        )
    # A copy of each, in one order: the format has no strides, and refuses two names of the same memory.
    plain = torch.contiguous_format
    copies = {name: tensor.clone(memory_format=plain) for name, tensor in weights.items()}
    save_file(copies, path, metadata={"format": "pt"})  # which transformers demands


def read_weights(path: Path) -> dict[str, torch.Tensor]:
    """The weights in the file `path`, on the CPU.

    Raises: ValueError if it is damaged or something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError, KeyError, TypeError, RuntimeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} cannot be read: {' '.join(str(error).split())[:200]}") from None


def weights_sha256(weights: Mapping[str, torch.Tensor]) -> str:
    """SHA-256 of `weights`, on the CPU: equal names and numbers in the same order, equal digest, however stored."""
    digest = hashlib.sha256()
    for name, tensor in weights.items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        numbers: Any = tensor.contiguous().numpy()  # NumPy's stubs do not say that it is a buffer
        digest.update(numbers)
    return digest.hexdigest()
