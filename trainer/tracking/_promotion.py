"""Whether a version may become the champion, and what is said of a champion that was set by hand."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import TrackingError
from trainer.tracking._bundle import BUNDLE
from trainer.tracking._candidate import CANDIDATE, VAL_DIGEST
from trainer.tracking._champion import (
    CHAMPION,
    PROMOTED,
    Move,
    Standing,
    accuracy,
    carry_out,
    finish_begun,
    number,
    pending,
)

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

logger = logging.getLogger(__name__)


def offer_champion(
    client: MlflowClient, version: ModelVersion, *, automatic: bool, lacks_bundle: Path | None = None
) -> bool:
    """At the end of a run: say what was done by hand, and promote its verified version if the recipe says so.

    Args:
        client: of MLflow.
        version: the run's.
        automatic: whether the recipe says so.
        lacks_bundle: the file that says why its bundle has failed; None if it has not.

    Returns: whether it was offered, whatever became of that.
    """
    standing, _ = finish_begun(client, version.name)
    if news := set_by_hand(client, standing):
        logger.warning("%s", news)
    if not automatic or (standing.champion and number(standing.champion) == number(version)):
        return automatic
    version = client.get_model_version(version.name, str(version.version))  # with the tags it has now
    if reason := objection(version, standing.champion):
        logger.info("%s is not promoted: %s", uri_of(version), reason)
        return True
    if lacks_bundle:
        logger.warning(
            "%s is not promoted: its bundle is not in MLflow, as %s says, so no device could pull it; make it with "
            "`trainer export %s --log`, and `trainer sync %s` promotes it, or promote it without: `trainer promote %s`",
            uri_of(version),
            lacks_bundle,
            uri_of(version),
            lacks_bundle.parent,
            uri_of(version),
        )
        return False
    try:
        move = promote_version(client, standing, version)
    except TrackingError as error:  # a better one came at the same time
        logger.info("%s", error)
    else:
        logger.info("%s version %d is %s now: %s", version.name, move.version, CHAMPION, move.why)
    return True


def promote_version(client: MlflowClient, standing: Standing, version: ModelVersion) -> Move:
    """Make `version` the champion. Raises: TrackingError if a better one was promoted at the same time."""
    digest = version.tags[VAL_DIGEST]
    why = f"top-1 {accuracy(version, digest):.2%}"
    why += f", was {accuracy(standing.champion, digest):.2%}" if standing.champion else ", the first champion"
    move = standing.next_move(number(version), PROMOTED, why)
    better = carry_out(client, standing, move)
    if better:
        raise TrackingError(
            f"{uri_of(version)} is not promoted: {uri_of(better)} was promoted at the same time and is better, top-1 "
            f"{accuracy(better, digest):.2%} against {accuracy(version, digest):.2%}; it is {CHAMPION} now"
        )
    if BUNDLE not in version.tags:
        logger.warning(
            "%s has no bundle in MLflow, so that no device can pull it; send one with: trainer export %s --log",
            uri_of(version),
            uri_of(version),
        )
    return move


def objection(version: ModelVersion, champion: ModelVersion | None) -> str:
    """Why `version` cannot replace `champion`; empty if it can."""
    if champion is None:
        return ""
    digest = version.tags[VAL_DIGEST]
    ours, theirs = accuracy(version, digest), accuracy(champion, digest)
    if theirs != theirs:
        return (
            f"it was measured on other validation images than the {CHAMPION}, version {champion.version}, or nothing "
            f"says how good that is; measure it with `trainer evaluate {uri_of(champion)} --data DIR --record`, DIR "
            "being the data set of the new one, and promote again"
        )
    if ours <= theirs:
        return (
            f"it is not better than the {CHAMPION}, version {champion.version}, on the same validation images: top-1 "
            f"{ours:.2%} against {theirs:.2%}"
        )
    return ""


def set_by_hand(client: MlflowClient, standing: Standing) -> str:
    """A sentence about a champion that was set by hand, and whether it is worse; empty if a command of ours set it."""
    champion, last = standing.champion, standing.moves[-1] if standing.moves else None
    if champion is None:
        return (
            f"champion of {standing.name} was removed by hand; it was version {last.version}" if last else ""
        )
    if (last and last.version == number(champion)) or pending(champion):
        return ""
    said = f"champion of {standing.name} was set by hand to version {champion.version}"
    other, what = _version(client, standing.name, last), "which it was before"
    if other is None:
        other, what = _candidate(client, standing.name), f"the {CANDIDATE}"
    if champion.tags.get("verified") != "true":
        said += ", which is not verified"
    if other is None or number(other) == number(champion):
        return said
    digest = champion.tags.get(VAL_DIGEST, "")
    ours, theirs = accuracy(champion, digest), accuracy(other, digest)
    against = f"version {other.version}, {what}"
    if ours != ours or theirs != theirs:
        return f"{said}; nothing says whether it is worse than {against}, on the same validation images"
    if ours >= theirs:
        return f"{said}; it is not worse than {against}: top-1 {ours:.2%} against {theirs:.2%}"
    return f"{said}; it is worse than {against}: top-1 {ours:.2%} against {theirs:.2%}"


def _version(client: MlflowClient, name: str, move: Move | None) -> ModelVersion | None:
    from mlflow.exceptions import MlflowException

    if move is None:
        return None
    try:
        return client.get_model_version(name, str(move.version))
    except MlflowException as error:  # it was deleted
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return None


def _candidate(client: MlflowClient, name: str) -> ModelVersion | None:
    version = client.get_registered_model(name).aliases.get(CANDIDATE)
    return client.get_model_version(name, str(version)) if version else None


def uri_of(version: ModelVersion) -> str:
    """What `trainer export` and others take."""
    return f"models:/{version.name}/{version.version}"
