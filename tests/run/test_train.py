"""Training as a call, as from a notebook."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, TINY
from trainer.export import read_variants
from trainer.sealed import sha256
from trainer.tracking import tracking_uri
from trainer.tracking._server import connect

pytestmark = pytest.mark.slow


def test_ten_lines_in_a_notebook_train_register_and_evaluate_the_digits(
    digits: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # where the network is
    caplog.set_level(logging.INFO)

    from trainer.run import EvaluateOptions, TrainOptions, evaluate_model, train_run

    options = TrainOptions(
        recipe="digits",
        data=digits,
        device="cpu",
        set=(*TINY, "global_batch=64", "model=tests.nets:Small", "promote=better"),
        no_report=True,
    )
    result = train_run(options)
    assert result is not None
    measured = evaluate_model(EvaluateOptions(model=result.model, data=digits, device="cpu"))
    assert measured is not None
    print(f"{result.top1:.1%} {result.model}")

    assert (measured.top1, measured.num_images) == (result.top1, 360)
    assert (result.model, result.again) == ("models:/cats-and-dogs/1", False)
    client = connect(tracking_uri(Path("runs")))
    assert client.get_run(result.run_id).data.tags["promote"] == "better"
    bundled = client.get_model_version_by_alias("cats-and-dogs", "champion").tags
    assert "has no bundle" not in caplog.text, "which it got first"
    assert bundled["bundle_sha256"] == sha256(Path(result.bundle, "SHA256SUMS"))
    assert abs(float(bundled["onnx_fp32_top1"]) - result.top1) < 1.5 / 360, "Pillow, and not DALI"
    assert read_variants(Path(result.bundle)).images == 360
    again = train_run(options)
    assert again is not None
    assert (again.again, again.run_id) == (True, result.run_id)
    assert capfd.readouterr().out == f"{result.top1:.1%} {result.model}\n", "no bar, no table, no chatter"
