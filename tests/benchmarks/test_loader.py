"""`python -m benchmarks.loader` against all loaders that are installed here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.loader import main
from benchmarks.peers import IF_INSTALLED, peers

LOADERS = {"trainer", *peers()}
ONLY = [word for name in peers() for word in ("--only", name)]


@pytest.mark.slow
# SPDL leaves out what fails, and would look for a batch without one for ever.
@pytest.mark.filterwarnings("ignore:The image decoding and encoding capabilities:DeprecationWarning")
def test_every_installed_loader_is_measured(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = ["--batch-size", "4", "--images", "8", "--rounds", "2"]
    assert main([str(photos), *small, *ONLY, "--cold", "--json"]) == 0

    figures = json.loads(capsys.readouterr().out)
    assert "torchvision_v2" in peers()
    assert set(peers()) <= {"torchvision_v2", *IF_INSTALLED}
    assert set(figures["by_round"]) == set(figures["median"]) == LOADERS
    assert set(figures["ratio"]) == LOADERS - {"trainer"}
    for rounds in figures["by_round"].values():
        assert len(rounds) == 2
        assert min(min(one.values()) for one in rounds) > 0


def test_wrong_input_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["nowhere"]) == 2

    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("benchmarks.loader: there is no data folder nowhere")
    assert err.count("\n") == 1
