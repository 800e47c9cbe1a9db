"""A network of one's own goes the whole way: trained, registered, evaluated, exported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import SETTINGS, command

pytestmark = pytest.mark.slow

NETS = '''
import torch
from torch import nn


class TwoPaths(nn.Module):
    """Two convolutions side by side."""

    def __init__(self, num_classes):
        super().__init__()
        self.fine = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.coarse = nn.Conv2d(3, 8, 7, stride=2, padding=3)
        self.norm = nn.BatchNorm2d(16)
        self.classifier = nn.Linear(16, num_classes)

    def forward(self, images):
        both = torch.cat([self.fine(images), self.coarse(images)], dim=1)
        return self.classifier(self.norm(both).relu().mean(dim=(2, 3)))
'''


def test_ones_own_network_is_trained_averaged_registered_evaluated_and_exported(
    photos: Path, tmp_path: Path
) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    settings = ["model=nets:TwoPaths", "ema_decay=0.5", "mixup=0.2"]
    own = [word for setting in settings for word in ("--set", setting)]
    tiny = [*SETTINGS, *own, "--no-report", "--no-export"]
    train = command("train", "digits", *tiny, "--data", photos, "--json", folder=tmp_path)
    said, err = train.communicate(timeout=300)
    assert said, err
    outcome = json.loads(said)
    assert outcome["model"] == "models:/cats-and-dogs/1", err

    evaluate = command("evaluate", outcome["run"], "--data", photos, "--json", folder=tmp_path)
    said, err = evaluate.communicate(timeout=300)
    assert json.loads(said)["top1"] == outcome["top1"], err  # of the checkpoint: the average is in it

    export = command("export", "models:/cats-and-dogs@candidate", "--out", "bundle", folder=tmp_path)
    _, err = export.communicate(timeout=300)
    assert export.returncode == 0, err
    assert (tmp_path / "bundle" / "model.onnx").exists()


def test_a_network_that_is_not_there_is_refused_before_anything_is_begun(
    photos: Path, tmp_path: Path
) -> None:
    process = command(
        "train", "digits", *SETTINGS, "--set", "model=nets:TwoPaths", "--data", photos, folder=tmp_path
    )
    _, err = process.communicate(timeout=300)

    assert process.returncode == 2
    assert "model nets:TwoPaths cannot be imported (No module named 'nets')" in err
    assert "Traceback" not in err
    assert not list((tmp_path / "runs").glob("*/journal.jsonl"))
