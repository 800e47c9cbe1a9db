"""A registered model, loaded: whole, with what was stored with it, or not at all."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import TrackingError
from trainer.tracking._registry import Registered, find_version
from trainer.tracking._saved_model import INFO, SAMPLES, WEIGHTS, ModelInfo, Sample, load_module, sha256
from trainer.tracking._server import check_reachable, connect, quiet, redact, shortened, tracking_uri

if TYPE_CHECKING:
    import torch
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion


@dataclass(frozen=True)
class LoadedModel:
    """A model ready for use on the CPU, whether it was registered or not."""

    module: torch.nn.Module  # from (N, 3, H, W) float32 to (N, classes) logits; in eval mode, N >= 1
    info: ModelInfo
    samples: tuple[Sample, ...]
    source: str  # origin, for messages: models:/NAME/VERSION, or a path
    registered: Registered | None  # None if it comes from somewhere else than the registry
    state_dict: dict[str, torch.Tensor]  # by the names of `trainer.model.build`


def load_model(uri: str, *, runs: Path = Path("runs")) -> LoadedModel:
    """Load a registered model with everything that was stored with it.

    Args:
        uri: `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `runs:/RUN_ID` (its newest version).
        runs: folder of MLflow's SQLite store, where MLFLOW_TRACKING_URI names no server.

    Raises: TrackingError that names what there is, if there is no such model; if MLflow cannot be reached; or if the
        stored model is damaged or not one of ours.
    """
    from mlflow.exceptions import MlflowException

    tracking = tracking_uri(runs)
    if tracking.startswith("sqlite:///") and not Path(tracking.removeprefix("sqlite:///")).exists():
        raise TrackingError(
            f"{uri} cannot be looked up: there is no {tracking.removeprefix('sqlite:///')}; "
            "set MLFLOW_TRACKING_URI to your server, or train first"
        )
    check_reachable(tracking)
    client = connect(tracking)
    try:
        with quiet():
            return _load(client, find_version(client, uri))
    except MlflowException as error:
        raise TrackingError(
            f"{uri} could not be loaded from MLflow at {redact(tracking)}: {shortened(error)}"
        ) from None


def _load(client: MlflowClient, version: ModelVersion) -> LoadedModel:
    from mlflow.artifacts import download_artifacts

    registered = Registered(version.name, int(version.version), version.run_id or "")
    with tempfile.TemporaryDirectory() as folder:
        # By its location, for models:/NAME would be looked up at the process-wide address.
        stored = client.get_model_version_download_uri(version.name, version.version)
        path = Path(
            download_artifacts(artifact_uri=stored, dst_path=folder, tracking_uri=client.tracking_uri)
        )
        try:
            known = json.loads((path / INFO).read_text())
            digest = sha256(path / WEIGHTS)
            labels: Mapping[str, int] = known.pop("labels")
            if any(Path(name).name != name for name in labels):
                raise ValueError("a sample's name leads out of its folder")
            info = ModelInfo(**{**known, "classes": tuple(known["classes"])})
            samples = tuple(
                Sample(n, (path / SAMPLES / n).read_bytes(), label) for n, label in labels.items()
            )
        except (OSError, ValueError, TypeError, KeyError):
            raise TrackingError(
                f"{registered.uri} was not registered by `trainer train`, or its files are gone: {INFO} or "
                f"{WEIGHTS} is missing or unreadable; use a version that `trainer train` made"
            ) from None
        if digest != version.tags.get("model_sha256", digest):
            raise TrackingError(
                f"{registered.uri} is damaged: {WEIGHTS} has another SHA-256 than when it was registered; "
                "use another version or train again"
            )
        module = load_module(path)
    return LoadedModel(module, info, samples, registered.uri, registered, dict(module.state_dict()))
