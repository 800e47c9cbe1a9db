"""A registered model, loaded: whole, with what was stored with it, or not at all.

Whoever reaches an MLflow server can change its files and tags, so nothing that comes from there is run: weights are
read as numbers, what is said of them is checked, and the network is ours (`trainer.model.rebuild`).
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import TrackingError
from trainer.sealed import SealBroken, check_seal
from trainer.tracking._registry import Registered, downloaded, versions_of
from trainer.tracking._saved_model import INFO, ModelInfo, Sample, read_info
from trainer.tracking._server import (
    check_reachable,
    connect,
    database_of,
    quiet,
    redact,
    shortened,
    tracking_uri,
)
from trainer.tracking._versions import FILES_SHA256, find_version
from trainer.tracking._weights import WEIGHTS, read_weights

if TYPE_CHECKING:
    import torch
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadedModel:
    """What is needed to build a model, whether it was registered or not."""

    info: ModelInfo
    samples: tuple[Sample, ...]
    source: str  # origin, for messages: models:/NAME/VERSION, or a path
    registered: Registered | None  # None if it comes from somewhere else than the registry
    state_dict: dict[str, torch.Tensor]  # by the names of `trainer.model.build`


def load_model(uri: str, *, runs: Path = Path("runs"), trust: bool = False) -> LoadedModel:
    """Load a registered model with everything that was stored with it.

    Args:
        uri: `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `runs:/RUN_ID` (its newest version).
        runs: folder of MLflow's SQLite store, where MLFLOW_TRACKING_URI names no server. If the run that
            registered the model is in it, that is asked as well whether the files are still the same.
        trust: take a version that `trainer train` has not sealed. Nothing of it is run all the same.

    Raises: TrackingError that names what there is, if there is no such model; if MLflow cannot be reached; or if the
        stored model is damaged or not one of ours.
    """
    from mlflow.exceptions import MlflowException

    tracking = tracking_uri(runs)
    if (database := database_of(tracking)) and not database.exists():
        raise TrackingError(
            f"{uri} cannot be looked up: there is no {database}; "
            "set MLFLOW_TRACKING_URI to your server, or train first"
        )
    check_reachable(tracking)
    try:
        with quiet():
            client = connect(tracking)
            return _load(client, find_version(client, uri), runs, trust)
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"{uri} could not be loaded from MLflow at {redact(tracking)}: {shortened(error)}"
        ) from None


def _load(client: MlflowClient, version: ModelVersion, runs: Path, trust: bool) -> LoadedModel:
    registered = Registered(version.name, int(version.version), version.run_id or "")
    uri, digest = registered.uri, version.tags.get(FILES_SHA256)
    noted = versions_of(runs, registered)
    if noted and digest != noted:
        raise TrackingError(
            f"{uri} is not what its run registered: the run folder in {runs} has noted another {FILES_SHA256}; "
            "use the run folder itself, and look who has access to MLflow"
        )
    if not digest and not trust:
        raise TrackingError(
            f"{uri} has no tag {FILES_SHA256}: an earlier trainer registered it, or somebody else, and nothing says "
            "whether its files are those of a training; use its run folder or another version, or take it with --trust"
        )
    with downloaded(client, version) as path:
        try:
            if digest:
                check_seal(path, digest=digest, required=(WEIGHTS, INFO))
            info, samples = read_info(path)
            weights = read_weights(path / WEIGHTS)
        except SealBroken as error:
            raise TrackingError(
                f"{uri} is damaged, or was changed since it was registered: {error}; use its run folder or "
                "another version"
            ) from None
        except (OSError, ValueError) as error:
            raise TrackingError(
                f"{uri} is no model of `trainer train`, or an earlier one's: {_missing(path) or error}; nothing "
                "else of it is loaded, for that could run code: use its run folder or another version"
            ) from None
    if not digest:
        logger.warning("%s is loaded because of --trust: nothing says who made it, nor that it is whole", uri)
    return LoadedModel(info, samples, uri, registered, weights)


def _missing(path: Path) -> str:
    missing = [name for name in (WEIGHTS, INFO) if not (path / name).is_file()]
    return f"it has no {' and no '.join(missing)}" if missing else ""
