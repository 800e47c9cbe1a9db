"""A MODEL in any form becomes a bundle; tests/export has what a bundle is."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer.errors import TrackingError
from trainer.run import export_model
from trainer.tracking._server import connect


def test_a_model_that_does_not_exist_is_refused_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    runs, out = tmp_path / "runs", tmp_path / "out"
    connect(f"sqlite:///{runs / 'mlflow.db'}")
    out.mkdir()

    with pytest.raises(TrackingError, match="there is no registered model nobody"):
        export_model("models:/nobody@candidate", out / "bundle", runs=runs)

    assert list(out.iterdir()) == []
