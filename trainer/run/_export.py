"""A model in any of its forms as a verified bundle."""

from __future__ import annotations

from pathlib import Path

from trainer.export import Bundle, export
from trainer.run._resolve import load_any


def export_model(model: str, out: Path, *, runs: Path = Path("runs"), trust: bool = False) -> Bundle:
    """Write the verified ONNX bundle of `model` to the new folder `out`.

    Args:
        model: in any of the forms of `resolve_model` but a bundle.
        out: a new or empty folder.
        runs: folder of MLflow's SQLite store, where MLFLOW_TRACKING_URI names no server.
        trust: take a registered version that `trainer train` has not sealed.

    Raises: ConfigError, TrackingError, CheckpointError, ExportError.
    """
    return export(load_any(model, runs=runs, trust=trust), out)
