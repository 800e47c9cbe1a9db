"""A model in any of the forms it takes on its way, made ready to be evaluated, exported or shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.checkpoint import checkpoint_step, list_checkpoints, load_checkpoint
from trainer.config import Preprocess, load_recipe, shipped_recipes, stored_recipe
from trainer.dataloader import preprocessing
from trainer.dataset import open_dataset
from trainer.errors import CheckpointError, ConfigError, DataError, ExportError
from trainer.export import is_bundle, load_bundle
from trainer.files import follow, read_json
from trainer.model import rebuild
from trainer.run._options import Weights
from trainer.run._plan import DATASET, RECIPE
from trainer.run._samples import samples_of
from trainer.tracking import CANDIDATE, LoadedModel, ModelInfo, Sample, load_model

FORMS = (
    "models:/NAME@ALIAS, models:/NAME/VERSION, runs:/RUN_ID, a recipe (its candidate), a run folder, "
    "a checkpoint file (RUN/checkpoints/step-….pt), or a bundle made by `trainer export`"
)

Network = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class ResolvedModel:
    """A model ready to be called."""

    network: Network  # from (N, 3, H, W) images on the device to (N, classes) logits, or log-probabilities
    class_ids: tuple[str, ...]  # class folders in label order
    preprocess: Preprocess


def resolve_model(model: str, *, runs: Path, device: torch.device, trust: bool = False) -> ResolvedModel:
    """The model that `model` names, on `device`.

    Args:
        model: `models:/NAME@ALIAS`, `models:/NAME/VERSION`, `runs:/RUN_ID`, a recipe (the candidate of its registered
            model), a run folder (its newest checkpoint), a checkpoint file, or the folder of a bundle.
        runs: folder of one's own runs, and of MLflow's SQLite store where MLFLOW_TRACKING_URI names no server.
        device: where the network shall be called.
        trust: take a registered version that `trainer train` has not sealed.

    Raises: ConfigError if `model` names nothing; TrackingError, CheckpointError, ExportError or DataError if what it
        names is missing, damaged or not made by this program.
    """
    path = Path(model)
    if not model.startswith(("models:/", "runs:/")) and is_bundle(path):
        bundle = load_bundle(path)

        def log_probabilities(images: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(bundle(images.float().cpu().numpy())).log().to(images.device)

        return ResolvedModel(log_probabilities, bundle.class_ids, _preprocess(bundle.preprocess))
    loaded = load_any(model, runs=runs, trust=trust)
    info = loaded.info
    network = rebuild(info.architecture, len(info.classes), loaded.state_dict)
    return ResolvedModel(network.to(device), info.class_ids, _preprocess(info.preprocess))


def load_any(model: str, *, runs: Path, trust: bool = False) -> LoadedModel:
    """As `resolve_model`, with weights, samples and origin, on the CPU.

    Raises: ExportError if `model` is a bundle, which has no weights that could be loaded; ConfigError if it is of a
        network that no run in `runs` was trained with.
    """
    loaded = _load(model, runs, trust)
    architecture = loaded.info.architecture
    # Such a name is code to be imported: it comes from one's own runs, not from a file that came from somewhere.
    if ":" in architecture and architecture not in _own_networks(runs):
        raise ConfigError(
            f"{model} is of the network {architecture}, which no run in {runs} was trained with, and is not "
            "imported; give the folder of your own runs with --runs, or copy its run there"
        )
    return loaded


def load_weights(
    model: str, *, runs: Path, weights: Weights | None = None, trust: bool = False
) -> LoadedModel:
    """The weights that `model` names, for a network that the caller makes: no code is imported for them.

    Args:
        model: as `load_any`.
        runs: as `load_any`.
        weights: the last ones or their moving average, of a checkpoint; None: those that are registered.
        trust: as `load_any`.

    Raises: as `load_any`; ConfigError if `model` has no such weights.
    """
    if not model.startswith(("models:/", "runs:/")) and is_bundle(Path(model)):
        raise ConfigError(
            f"{model} is a bundle, whose ONNX file holds a network to be run and no weights to be trained; give the "
            "registered version or the run that it was made of"
        )
    return _load(model, runs, trust, weights)


def _own_networks(runs: Path) -> set[str]:
    """The networks that the runs in `runs` were trained with."""
    found = set()
    for recipe in runs.glob(f"*/{RECIPE}"):
        try:
            found.add(read_json(recipe)["model"])
        except (OSError, ValueError, LookupError, TypeError):
            continue
    return found


def _holds_run(path: Path) -> bool:
    return (path / "checkpoints").is_dir()


def _load(model: str, runs: Path, trust: bool, weights: Weights | None = None) -> LoadedModel:
    if model.startswith(("models:/", "runs:/")):
        if weights:
            raise ConfigError(
                f"--weights {weights} is for a checkpoint, and {model} has only what was registered; leave it out, or "
                "give a checkpoint of its run"
            )
        return load_model(model, runs=runs, trust=trust)
    path = Path(model)
    if is_bundle(path):
        raise ExportError(f"{model} is an exported bundle already; copy the folder to the device as it is")
    if model.endswith((".yaml", ".yml")) or (model in shipped_recipes() and not _holds_run(path)):
        name = load_recipe(model).registered_model_name
        return _load(f"models:/{name}@{CANDIDATE}", runs, trust, weights)
    if path.is_dir():
        checkpoints = list_checkpoints(path / "checkpoints")
        if not checkpoints:
            raise ConfigError(
                f"the folder {model} holds neither a run with checkpoints nor a bundle; give {FORMS}"
            )
        path = checkpoints[0]
    elif not path.exists():
        raise ConfigError(f"there is no model {model}; give {FORMS}")
    return _of_checkpoint(path, weights)


def _of_checkpoint(path: Path, choice: Weights | None) -> LoadedModel:
    """The model in a checkpoint file: all that is believed of it is in the file, which its name's digest covers."""
    path = follow(path)
    content = load_checkpoint(path)
    recipe, states = stored_recipe(content["recipe"]), content["states"]
    if choice == "ema" and not recipe.uses_ema:
        raise ConfigError(f"{path} has no EMA weights, its recipe has ema_decay=0; leave out --weights ema")
    averaged = recipe.uses_ema and choice != "raw"
    weights = states.get("ema", {}).get("weights") if averaged else states.get("model")
    classes: dict[str, str] = content["classes"]
    if not isinstance(weights, dict) or not classes:
        raise CheckpointError(f"the checkpoint {path} holds no weights or no classes; use another one")
    # Measured on these weights only if no step came after.
    progress, step = states.get("progress", {}), checkpoint_step(path)
    top1, top5 = (
        progress.get(key) if progress.get("evaluated") == step and choice is None else None
        for key in ("top1", "top5")
    )
    info = ModelInfo(
        architecture=recipe.model,
        class_ids=tuple(classes),
        classes=tuple(classes.values()),
        preprocess=preprocessing(recipe.preprocess),
        recipe=recipe.name,
        top1=top1 if isinstance(top1, float) else float("nan"),
        top5=top5 if isinstance(top5, float) else float("nan"),
        dataset_digest=content["dataset_digest"],
    )
    samples = tuple(_samples(path.parent.parent / DATASET, info))
    return LoadedModel(info, samples, source=str(path), registered=None, state_dict=weights)


def _samples(trained_on: Path, info: ModelInfo) -> list[Sample]:
    """Validation images of the data set that the run folder names, if it is still there and the same."""
    try:
        dataset = open_dataset(Path(str(read_json(trained_on)["source"])))
        return samples_of(dataset.val, info.preprocess) if dataset.digest == info.dataset_digest else []
    except (DataError, OSError, ValueError, LookupError, TypeError):
        return []


def _preprocess(described: dict[str, Any]) -> Preprocess:
    return Preprocess(val_resize=described["val_resize"], val_size=described["val_size"])
