"""Versions of registered models, looked up by what users call them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from trainer.errors import TrackingError
from trainer.tracking._server import redact

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion, RegisteredModel

FILES_SHA256 = "files_sha256"  # tag of a version: digest of the listing of all its files


def find_version(client: MlflowClient, uri: str) -> ModelVersion:
    """The version that `uri` names.

    Args:
        client: of the MLflow to look in.
        uri: `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `runs:/RUN_ID` (its newest version).

    Raises: TrackingError if there is none, which names what there is.
    """
    from mlflow.exceptions import MlflowException

    server = redact(client.tracking_uri)
    if named := re.fullmatch(r"runs:/([^/]+)(/.*)?", uri):
        version = newest_version(client, f"run_id='{named[1]}'")
        if version is None:
            raise TrackingError(f"run {named[1]} has no registered model at {server}{_known_models(client)}")
        return version
    named = re.fullmatch(r"models:/([^/@]+)(?:@([^/]+)|/(\d+))", uri)
    if named is None:
        raise TrackingError(
            f"{uri!r} names no model; write models:/NAME@ALIAS, models:/NAME/VERSION or runs:/RUN_ID"
        )
    name, alias, number = named.groups()
    find_model(client, name)
    try:
        return (
            client.get_model_version_by_alias(name, alias)
            if alias
            else client.get_model_version(name, number)
        )
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
    aliases = client.get_registered_model(name).aliases
    numbers = sorted(int(v.version) for v in client.search_model_versions(f"name='{name}'"))
    known = [f"@{alias} (version {version})" for alias, version in aliases.items()]
    known += [f"/{number}" for number in numbers]
    raise TrackingError(f"there is no {uri}; of {name} there are {', '.join(known[:20]) or 'no versions'}")


def find_model(client: MlflowClient, name: str) -> RegisteredModel:
    """The registered model `name`. Raises: TrackingError if there is none, which names those that there are."""
    from mlflow.exceptions import MlflowException

    try:
        return client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
    raise TrackingError(
        f"there is no registered model {name} at {redact(client.tracking_uri)}{_known_models(client)}"
    )


def newest_version(client: MlflowClient, query: str, weights: str | None = None) -> ModelVersion | None:
    """The newest version that the search `query` finds; if `weights` is given, of a sealed one with this SHA-256."""
    versions = client.search_model_versions(query)
    matching = [
        version
        for version in versions
        if weights is None
        or (version.tags.get("weights_sha256") == weights and version.tags.get(FILES_SHA256))
    ]
    return max(matching, key=lambda version: int(version.version), default=None)


def _known_models(client: MlflowClient) -> str:
    names = sorted(model.name for model in client.search_registered_models(max_results=20))
    return (
        f"; registered are {', '.join(names)}" if names else "; nothing is registered there yet, train first"
    )
