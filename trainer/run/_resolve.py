"""A model in any of the forms it takes on its way, made ready to be evaluated, exported or shown."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer import metrics
from trainer.checkpoint import checkpoint_step, list_checkpoints, load_state
from trainer.config import Preprocess, stored_recipe
from trainer.dataloader import preprocessing
from trainer.dataset import open_dataset
from trainer.errors import ConfigError, DataError, ExportError
from trainer.export import is_bundle, load_bundle
from trainer.files import follow
from trainer.model import build
from trainer.run._plan import DATASET, RECIPE
from trainer.run._samples import samples_of
from trainer.tracking import LoadedModel, ModelInfo, load_model, read_journal

FORMS = (
    "models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN_ID, a run folder, a checkpoint file "
    "(RUN/checkpoints/step-….pt), or a bundle made by `trainer export`"
)

Network = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class ResolvedModel:
    """A model ready to be called."""

    network: Network  # from (N, 3, H, W) images on the device to (N, classes) logits, or log-probabilities
    classes: tuple[str, ...]  # names in label order
    preprocess: Preprocess


def resolve_model(model: str, *, runs: Path, device: torch.device) -> ResolvedModel:
    """The model that `model` names, on `device`.

    Args:
        model: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/RUN_ID`, a run folder (its newest checkpoint), a
            checkpoint file, or the folder of a bundle.
        runs: folder of MLflow's SQLite store, where MLFLOW_TRACKING_URI names no server.
        device: where the network shall be called.

    Raises: ConfigError if `model` names nothing; TrackingError, CheckpointError, ExportError or DataError if what it
        names is missing, damaged or not made by this program.
    """
    path = Path(model)
    if not model.startswith(("models:/", "runs:/")) and is_bundle(path):
        bundle = load_bundle(path)

        def log_probabilities(images: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(bundle(images.float().cpu().numpy())).log().to(images.device)

        return ResolvedModel(log_probabilities, bundle.classes, _preprocess(bundle.preprocess))
    loaded = load_any(model, runs=runs)
    return ResolvedModel(loaded.module.to(device), loaded.info.classes, _preprocess(loaded.info.preprocess))


def load_any(model: str, *, runs: Path) -> LoadedModel:
    """As `resolve_model`, with weights, samples and origin, on the CPU.

    Raises: ExportError if `model` is a bundle, which has no weights that could be loaded.
    """
    if model.startswith(("models:/", "runs:/")):
        return load_model(model, runs=runs)
    path = Path(model)
    if is_bundle(path):
        raise ExportError(f"{model} is an exported bundle already; copy the folder to the device as it is")
    if path.is_dir():
        checkpoints = list_checkpoints(path / "checkpoints")
        if not checkpoints:
            raise ConfigError(
                f"the folder {model} holds neither a run with checkpoints nor a bundle; give {FORMS}"
            )
        path = checkpoints[0]
    elif not path.exists():
        raise ConfigError(f"there is no model {model}; give {FORMS}")
    return _of_checkpoint(path)


def _of_checkpoint(path: Path) -> LoadedModel:
    # best.pt leads to a checkpoint, and beside a copy of one in another folder stands no recipe.
    path = follow(path)
    run = path.parent.parent
    recipe, trained_on = stored_recipe(_read(run / RECIPE, path)), _read(run / DATASET, path)
    if not {"class_names", "digest", "source"} <= trained_on.keys():
        raise ConfigError(
            f"{run / DATASET} lacks facts about the data set; it was not written by this version of trainer"
        )
    classes = tuple(str(name) for name in trained_on["class_names"])
    module = build(recipe.model, len(classes))
    try:
        module.load_state_dict(
            load_state(path, "ema")["weights"] if recipe.ema_decay else load_state(path, "model")
        )
    except RuntimeError as error:
        raise DataError(
            f"the checkpoint {path} does not fit the network of {run / RECIPE}: {str(error).splitlines()[0]}; keep "
            "checkpoints in the folder of their run"
        ) from None
    step = checkpoint_step(path)
    measured = {p.key: p.value for p in read_journal(run, empty=True).points if p.step == step}
    info = ModelInfo(
        architecture=recipe.model,
        classes=classes,
        preprocess=preprocessing(recipe.preprocess),
        recipe=recipe.name,
        top1=measured.get(metrics.VAL_TOP1, float("nan")),
        top5=measured.get(metrics.VAL_TOP5, float("nan")),
        dataset_digest=str(trained_on["digest"]),
    )
    try:
        dataset = open_dataset(Path(str(trained_on["source"])))
        samples = samples_of(dataset.val) if dataset.digest == info.dataset_digest else []
    except (DataError, OSError):
        samples = []
    return LoadedModel(
        module=module.eval(),
        info=info,
        samples=tuple(samples),
        source=str(path),
        registered=None,
        state_dict=dict(module.state_dict()),
    )


def _preprocess(described: dict[str, Any]) -> Preprocess:
    return Preprocess(val_resize=described["val_resize"], val_size=described["val_size"])


def _read(path: Path, checkpoint: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_bytes())
        if not isinstance(content, dict):
            raise TypeError
    except (OSError, ValueError, TypeError):
        raise ConfigError(
            f"the checkpoint {checkpoint} has no readable {path.name} at {path}; keep checkpoints in the folder of "
            "their run"
        ) from None
    return content
