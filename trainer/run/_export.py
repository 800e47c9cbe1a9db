"""A model in any of its forms as a verified bundle, in a folder and in MLflow."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from trainer import names
from trainer.config import DeviceChoice
from trainer.dataset import Dataset, open_dataset
from trainer.distributed import choose_device
from trainer.errors import ConfigError, DataError, ExportError
from trainer.export import (
    MODEL,
    Bundle,
    BundleImages,
    Format,
    export,
    is_bundle,
    load_bundle,
    read_variants,
    whole_or_nothing,
)
from trainer.files import read_json
from trainer.run._plan import DATASET
from trainer.run._resolve import load_any
from trainer.tracking import BUNDLE, LoadedModel, log_bundle, run_folder_of

EXPORTS = Path("export")


@dataclass(frozen=True)
class _Found:
    """A model's data set, or why it is not here."""

    dataset: Dataset | None = None
    missing: str = ""


def export_model(
    model: str,
    out: Path | None = None,
    *,
    runs: Path = Path("runs"),
    trust: bool = False,
    data: Path | None = None,
    parity: int | None = None,
    formats: Sequence[Format] = (),
    device: DeviceChoice = "auto",
    log: bool = False,
) -> Bundle:
    """Write the verified ONNX bundle of `model`.

    Args:
        model: in any of the forms of `resolve_model` but a bundle.
        out: a new or empty folder; None: `export/NAME-VERSION`. A sound bundle of this model is left as it is,
            and refused if another is asked for with `data`, `parity` or `formats`.
        runs: folder of one's own runs, and of MLflow's SQLite store, where MLFLOW_TRACKING_URI names no server.
        trust: take a registered version that `trainer train` has not sealed.
        data: folder of its data set; None: where its run had it, if that is here.
        parity: validation images to measure each variant on, spread evenly; None: all; 0: none, and so no INT8.
        formats: other forms to write.
        device: where they are measured.
        log: send it to MLflow too, to the registered version.

    Raises: ConfigError, TrackingError, CheckpointError, ExportError, DataError.
    """
    loaded = load_any(model, runs=runs, trust=trust)
    if log and loaded.registered is None:
        raise ConfigError(
            f"--log sends the bundle to a registered version, and {model} is none; give models:/NAME/VERSION"
        )
    folder = out or EXPORTS / _folder_name(loaded)
    bundle = _there(loaded, folder)
    if bundle and (data or parity is not None or formats):
        raise ConfigError(
            f"{folder} holds a bundle of {loaded.source} already, which --data, --parity and --format do not change; "
            "remove it, or give another folder with --out"
        )
    if bundle is None and not (data or parity or formats):
        bundle = _copied(loaded, folder, runs)
    if bundle is None:
        found = _find_dataset(loaded, runs, data) if parity != 0 else _Found()
        bundle = export(
            loaded,
            folder,
            images=BundleImages(found.dataset, loaded.info.preprocess) if found.dataset else None,
            missing=found.missing or "it was asked for no measuring",
            count=parity,
            formats=formats,
            device=torch.device(choose_device(device)),
        )
    if log and loaded.registered:
        log_bundle(loaded.registered, bundle.folder, runs=runs)
    return bundle


def _find_dataset(model: LoadedModel, runs: Path, given: Path | None) -> _Found:
    """The data set that the model was trained on. Raises: DataError if `given` is another one."""
    source = given or _source(model, runs)
    if source is None:
        return _Found(
            missing="its run folder is not here and does not say where its data set is, give --data"
        )
    try:
        dataset = open_dataset(source)
    except DataError:
        if given:
            raise
        return _Found(missing=f"its data set is not in {source}, give --data")
    if dataset.digest == model.info.dataset_digest:
        return _Found(dataset)
    if given:
        raise DataError(
            f"{given} is another data set than {model.source} was trained on; give that one with --data"
        )
    return _Found(missing=f"the data set in {source} is not the one that it was trained on, give --data")


def _source(model: LoadedModel, runs: Path) -> Path | None:
    """Where the run of `model` had its data set, as its run folder says."""
    folder: Path | None = Path(model.source).resolve().parent.parent  # RUN/checkpoints/step-….pt
    if model.registered:
        folder = run_folder_of(runs, model.registered)
    try:
        return Path(str(read_json(folder / DATASET)["source"])) if folder else None
    except (OSError, ValueError, LookupError, TypeError):
        return None


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


def bundle_of_run(model: LoadedModel, runs: Path) -> Bundle | None:
    """The sound bundle that the end of the training made of this version; None if there is none."""
    run = run_folder_of(runs, model.registered) if model.registered else None
    try:
        return _there(model, run / BUNDLE) if run else None
    except ExportError:
        return None  # damaged, or of another version


def _copied(model: LoadedModel, out: Path, runs: Path) -> Bundle | None:
    """The bundle that the end of the training made of this version, copied to `out`."""
    made = bundle_of_run(model, runs)
    variants = read_variants(made.folder) if made else None
    fp32 = variants.find(MODEL) if variants else None
    if made is None or variants is None or fp32 is None:
        return None
    with whole_or_nothing(out) as folder:
        shutil.copytree(made.folder, folder, dirs_exist_ok=True)
    return replace(made, folder=out, max_difference=fp32.max_difference, left_out=variants.left_out)
