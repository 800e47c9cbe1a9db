"""The champion of a registered model, for MODEL and NAME as the command line takes them."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from trainer.config import load_recipe, shipped_recipes
from trainer.dataset import open_dataset
from trainer.errors import ConfigError
from trainer.files import read_json
from trainer.run._options import EvaluateOptions
from trainer.tracking import CANDIDATE, REGISTERED, Promoted, promote, record_accuracy, rollback, version_uri


def promote_model(model: str | None, *, runs: Path) -> Promoted:
    """Make the version that `model` names the champion, if it is proven and better; see `trainer.tracking.promote`.

    Args:
        model: a recipe or the name of a registered model (its candidate), `models:/NAME@ALIAS`,
            `models:/NAME/VERSION`, `runs:/RUN_ID`, or the folder of a run that is registered; None: the candidate,
            where there is one registered model only.
        runs: folder of all runs, and of MLflow's SQLite store where MLFLOW_TRACKING_URI names no server.

    Raises: ConfigError, TrackingError.
    """
    return promote(_uri(model) if model else None, runs=runs)


def roll_back(name: str, *, runs: Path, reason: str = "") -> Promoted:
    """Swap champion and previous; see `trainer.tracking.rollback`. `name`: of a registered model, or a recipe."""
    return rollback(_name(name), runs=runs, reason=reason)


def for_record(options: EvaluateOptions) -> EvaluateOptions:
    """The same options for the version itself, so that the result belongs to it though an alias should move.

    Raises: ConfigError if such a result cannot be compared; TrackingError if there is no such version.
    """
    if options.tta:
        raise ConfigError(
            "--record keeps what can be compared with a run's own accuracy; leave out --tta, or --record"
        )
    return dataclasses.replace(options, model=version_uri(_uri(options.model), runs=options.runs))


def record(options: EvaluateOptions, top1: float) -> None:
    """Note at the version how good it is on these validation images."""
    digest = open_dataset(options.data).val_digest
    record_accuracy(options.model, digest, top1, runs=options.runs)


def _uri(model: str) -> str:
    if model.startswith(("models:/", "runs:/")):
        return model
    path = Path(model)
    if path.is_dir() and model not in shipped_recipes():
        try:
            noted = read_json(path / REGISTERED)
            return f"models:/{noted['name']}/{int(noted['version'])}"
        except (OSError, ValueError, LookupError, TypeError):
            raise ConfigError(
                f"the run in {model} has no registered version; register it with `trainer sync {model}`"
            ) from None
    return f"models:/{_name(model)}@{CANDIDATE}"


def _name(model: str) -> str:
    """Name of a registered model; that of a recipe's."""
    is_recipe = model.endswith((".yaml", ".yml")) or model in shipped_recipes()
    return load_recipe(model).registered_model_name if is_recipe else model
