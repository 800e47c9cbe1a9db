"""The name of the CPU."""

from __future__ import annotations

import platform
from pathlib import Path

from trainer.cpu import cpu_name


def test_a_cpu_without_a_name_is_called_by_its_architecture(tmp_path: Path) -> None:
    named, nameless = tmp_path / "named", tmp_path / "nameless"
    named.write_text("processor\t: 0\nmodel name\t: AMD EPYC 7R13 Processor\nmodel name\t: another\n")
    nameless.write_text("processor\t: 0\nBogoMIPS\t: 243.75\n")

    assert cpu_name(named) == "AMD EPYC 7R13 Processor"
    assert cpu_name(nameless) == cpu_name(tmp_path / "missing") == platform.machine()
