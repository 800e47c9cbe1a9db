"""A model in any of its forms as a verified bundle."""

from __future__ import annotations

from pathlib import Path

from trainer import names
from trainer.errors import ExportError
from trainer.export import Bundle, export, is_bundle, load_bundle
from trainer.run._resolve import load_any
from trainer.tracking import LoadedModel

EXPORTS = Path("export")


def export_model(
    model: str, out: Path | None = None, *, runs: Path = Path("runs"), trust: bool = False
) -> Bundle:
    """Write the verified ONNX bundle of `model`.

    Args:
        model: in any of the forms of `resolve_model` but a bundle.
        out: a new or empty folder; None: `export/NAME-VERSION`, where a sound bundle of this model is left as it is.
        runs: folder of MLflow's SQLite store, where MLFLOW_TRACKING_URI names no server.
        trust: take a registered version that `trainer train` has not sealed.

    Raises: ConfigError, TrackingError, CheckpointError, ExportError.
    """
    loaded = load_any(model, runs=runs, trust=trust)
    if out is not None:
        return export(loaded, out)
    out = EXPORTS / _folder_name(loaded)
    return _there(loaded, out) or export(loaded, out)


def _folder_name(model: LoadedModel) -> str:
    if model.registered:
        name = f"{model.registered.name}-{model.registered.version}"
    else:  # RUN/checkpoints/step-00000308-0123456789abcdef.pt
        checkpoint = Path(model.source)
        name = f"{checkpoint.resolve().parent.parent.name}-{checkpoint.stem.rpartition('-')[0]}"
    try:
        return names.folder_name(name)
    except ValueError as error:
        raise ExportError(f"{model.source} cannot name a folder: {error}; give one with --out") from None


def _there(model: LoadedModel, out: Path) -> Bundle | None:
    """The bundle in `out`, if that is of this model. Raises: ExportError if it is damaged, or of another model."""
    if not is_bundle(out):
        return None
    origin = load_bundle(out).preprocess.get("model")
    run_id = model.registered.run_id if model.registered else None
    if not isinstance(origin, dict) or (origin.get("source"), origin.get("run_id")) != (model.source, run_id):
        raise ExportError(
            f"{out} is of another model than {model.source}; remove it, or give a folder with --out"
        )
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    return Bundle(out, model.source, len(model.samples), None, size)
