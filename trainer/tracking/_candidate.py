"""Which version of a registered model has the alias `candidate`, the one that is offered to be the champion."""

from __future__ import annotations

import logging
import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CANDIDATE = "candidate"  # alias of the best verified version
VAL_DIGEST = "val_digest"  # tag of a version: which images its accuracy was measured on

logger = logging.getLogger(__name__)


def offer_candidate(
    client: MlflowClient, version: ModelVersion, top1: float, val_digest: str, *, force: bool
) -> None:
    """Give `version` the alias unless a better one has it, and say what happened.

    A version that was measured on other images cannot be compared: the newer one gets the alias.

    Args:
        client: of the registry.
        version: a verified version.
        top1: its accuracy in 0..1.
        val_digest: of the images that it was measured on.
        force: take the alias from a better version too.
    """
    holder = _holder(client, version.name)
    if holder and holder.version == version.version:
        return
    ours = f"{version.name} version {version.version} is registered, top-1 {top1:.2%}"
    if holder:
        best, same = _number(holder.tags.get("top1")), holder.tags.get(VAL_DIGEST) == val_digest
        theirs = f"version {holder.version}" + ("" if math.isnan(best) else f", {best:.2%}")
        if same and best > top1 and not force:
            logger.warning(
                "%s; %s stays %s of the same images: `trainer sync RUN --candidate` moves it",
                ours,
                CANDIDATE,
                theirs,
            )
            return
        ours += f"; {CANDIDATE} was {theirs}" + ("" if same else " of other images")
    client.set_registered_model_alias(version.name, CANDIDATE, version.version)
    logger.info("%s; it is %s now", ours, CANDIDATE)


def _holder(client: MlflowClient, name: str) -> ModelVersion | None:
    from mlflow.exceptions import MlflowException

    try:
        return client.get_model_version_by_alias(name, CANDIDATE)
    except MlflowException as error:
        if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            raise
        return None


def _number(text: str | None) -> float:
    try:
        return float(text or "nan")  # which is better than nothing
    except ValueError:
        return float("nan")
