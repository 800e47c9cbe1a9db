"""The precision that a device gets, and the scaling of the loss."""

from __future__ import annotations

import pytest
import torch

from trainer.training import choose_precision
from trainer.training._precision import LossScaler


def test_a_run_without_scaling_goes_on_where_the_loss_is_scaled() -> None:
    """From an A10G in bf16 to a T4 in fp16, and back."""
    off, on = LossScaler("cpu", enabled=False), LossScaler("cpu", init_scale=8.0)
    on.load_state_dict(off.state_dict())
    assert on.get_scale() == 8.0

    off.load_state_dict(on.state_dict())
    assert off.get_scale() == 1.0


@pytest.mark.parametrize(
    ("wanted", "capability", "gets"),
    [("bf16", (7, 5), "fp16"), ("bf16", (8, 6), "bf16"), ("fp16", (8, 6), "fp16"), ("fp32", (7, 5), "fp32")],
)
def test_a_t4_gets_fp16_where_an_a10g_gets_bf16(
    monkeypatch: pytest.MonkeyPatch, wanted: str, capability: tuple[int, int], gets: str
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    precision = choose_precision(wanted, torch.device("cuda"))

    assert precision.name == gets
    assert precision.scaled == (gets == "fp16")


def test_a_cpu_never_gets_fp16() -> None:
    assert choose_precision("fp16", torch.device("cpu")).name in ("bf16", "fp32")
