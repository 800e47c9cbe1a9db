"""Commands called in this process, and what they print."""

from __future__ import annotations

from typing import Any

import pytest

from trainer.cli import main

Captured = pytest.CaptureFixture[str]


def output_of(capsys: Captured, *arguments: Any, code: int = 0) -> tuple[str, str]:
    """What a command prints, and what it says beside."""
    assert main([str(argument) for argument in arguments]) == code
    out, err = capsys.readouterr()
    return out, err


def error_of(capsys: Captured, *arguments: Any) -> str:
    """The one sentence of a command that refuses."""
    out, err = output_of(capsys, *arguments, code=2)
    lines = [line for line in err.splitlines() if line.startswith("trainer: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in out + err
    return lines[0]
