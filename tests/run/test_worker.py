"""What a process of a run says of it."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from trainer.run._worker import _say_where
from trainer.tracking import RunRef, tracking_uri
from trainer.tracking._mlflow_run import write_run_ref


def test_where_a_run_is_watched_is_not_where_it_was_before_it_was_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    caplog.set_level(logging.INFO)
    (tmp_path / "run").mkdir()
    for uri in ("sqlite:////elsewhere/mlflow.db", tracking_uri(tmp_path)):
        write_run_ref(tmp_path / "run", RunRef(uri, "1", "abc"))
        with _say_where(tmp_path / "run"):
            pass

    assert caplog.text.count("watch it with: mlflow ui") == 1
    assert f"--backend-store-uri {uri}," in caplog.text
