"""`trainer summary` as it is typed, and where a run shows the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.calls import Captured, error_of
from trainer.cli import main


def test_the_table_and_its_figures(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["summary", "rn50-baseline"]) == 0
    said = capsys.readouterr().out.splitlines()
    assert main(["summary", "rn50-baseline", "--classes", "10", "--set", "model=resnet18", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)

    assert said[0].split() == ["layer", "kind", "output", "parameters", "MMAC"]
    assert said[-1].split() == ["all,", "224", "px", "25,557,032", "4,089.18"]
    assert len({len(line) for line in said}) == 1
    assert (figures["model"], figures["parameters"]) == ("resnet18", 11_181_642)
    assert sum(layer["macs"] for layer in figures["layers"]) == figures["macs"]


def test_a_dry_run_shows_what_the_network_is_made_of(
    capsys: pytest.CaptureFixture[str], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert (
        main(
            [
                "train",
                "digits",
                "--set",
                "global_batch=8",
                "--set",
                "preprocess.train_size=64",
                "--set",
                "classes=2",
                "--data",
                str(photos),
                "--device",
                "cpu",
                "--dry-run",
            ]
        )
        == 0
    )

    assert "resnet50, 23,512,130 parameters, 333.65 MMAC an image at 64 px" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("model", "says"),
    [
        ("os:system", "model os:system cannot be made (TypeError: system() missing required argument"),
        (
            "tests.run.test_rehearsal:Needy",
            "missing 1 required positional argument: 'depth'); it is called with",
        ),
        ("builtins:dict", "model builtins:dict: it answers dict, not a torch.nn.Module"),
    ],
)
def test_what_is_no_network_is_refused_in_a_sentence(capsys: Captured, model: str, says: str) -> None:
    assert says in error_of(capsys, "summary", "digits", "--set", f"model={model}")
