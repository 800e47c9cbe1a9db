"""The precision that training runs in on this device, and the scaling of the loss that fp16 needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Precision:
    """The precision of matrix products and convolutions; weights and sums stay fp32."""

    name: str  # fp32, bf16 or fp16
    device_type: str

    @property
    def scaled(self) -> bool:
        """Whether the loss is scaled, so that small gradients do not vanish in fp16."""
        return self.name == "fp16"

    @property
    def image_dtype(self) -> torch.dtype:
        """Type of training images: half the bytes where the first convolution rounds them to 16 bits anyway.

        Pixels are 0.017 apart, fp16 numbers of their size 0.002 at most; bf16 keeps fewer digits than fp16.
        """
        return torch.float16 if self.device_type == "cuda" and self.name != "fp32" else torch.float32

    def autocast(self) -> torch.autocast:
        """A context in which matrix work runs in this precision."""
        dtype = torch.float16 if self.name == "fp16" else torch.bfloat16
        return torch.autocast(self.device_type, dtype=dtype, enabled=self.name != "fp32")


def choose_precision(wanted: str, device: torch.device) -> Precision:
    """The wanted precision, or what comes closest on `device`.

    bf16 needs compute capability 8.0 (Ampere): a T4 claims it and emulates it, so it gets fp16.
    A CPU gets bf16 where it has instructions for it and fp32 elsewhere, never fp16.
    """
    if device.type == "cuda":
        old = torch.cuda.get_device_capability(device) < (8, 0)
        return Precision("fp16" if wanted == "bf16" and old else wanted, "cuda")
    capable = bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    return Precision("bf16" if wanted != "fp32" and capable else "fp32", "cpu")


class LossScaler(torch.amp.GradScaler):
    """GradScaler whose state may come from a device that scaled nothing: a run moved from bf16 or the CPU to a T4."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state; that of a disabled scaler is empty and changes nothing."""
        if state_dict:
            super().load_state_dict(state_dict)
