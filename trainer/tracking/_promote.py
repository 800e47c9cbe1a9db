"""`champion` is given to a version that is proven and better, and given back."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.errors import TrackingError
from trainer.sealed import SealBroken, check_seal
from trainer.tracking._bundle import BUNDLE, BUNDLE_LOG
from trainer.tracking._candidate import CANDIDATE, VAL_DIGEST
from trainer.tracking._champion import (
    CHAMPION,
    PREVIOUS,
    ROLLED_BACK,
    accuracy,
    carry_out,
    finish_begun,
    number,
    recorded_as,
)
from trainer.tracking._history import read_journal
from trainer.tracking._promotion import objection, offer_champion, promote_version, set_by_hand, uri_of
from trainer.tracking._registry import Registered, downloaded, versions_of
from trainer.tracking._saved_model import INFO, read_info
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
from trainer.tracking._weights import WEIGHTS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

OFFERED = "champion_offered"  # tag of a version whose recipe has `promote: better`
EDITED = 0.002  # by so much a tag may differ from the accuracy in the sealed files: an image of a small set

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Promoted:
    """What `promote` or `rollback` has done."""

    model: str  # models:/NAME/VERSION, the champion now
    name: str
    version: int
    previous: int | None  # version that was the champion before
    why: str
    moved: bool = True  # False: it was the champion already


def promote(uri: str | None, *, runs: Path) -> Promoted:
    """Make a version the champion of its registered model, if it is proven, and better than the one that is.

    Args:
        uri: `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `runs:/RUN_ID`; None: the candidate, where there is one
            registered model only.
        runs: folder of one's own runs, and of MLflow's SQLite store where MLFLOW_TRACKING_URI names no server.

    Raises: TrackingError if it is not proven, not better, or cannot be compared, which says what to do.
    """
    with _registry(runs, "the champion") as client:
        version = find_version(client, uri or f"models:/{_only_model(client)}@{CANDIDATE}")
        standing, _ = finish_begun(client, version.name)
        if news := set_by_hand(client, standing):
            logger.warning("%s", news)
        if standing.champion and number(standing.champion) == number(version):
            return _done(version, "", before=standing.previous, moved=False)
        _require_proven(client, version, runs)
        if reason := objection(version, standing.champion):
            raise TrackingError(f"{uri_of(version)} is not promoted: {reason}")
        move = promote_version(client, standing, version)
        return _done(version, move.why, before=standing.champion)


def promote_if_asked(folder: Path, registered: Registered) -> None:
    """At the end of the run in `folder`: offer its version `champion`, if its recipe has `promote: better`.

    It is offered once, so a repeat takes it from nobody; and after its bundle was sent, which devices pull. One whose
    bundle has failed has to wait for it, or for `promote` by hand.

    Raises: TrackingError if MLflow does not answer, or does not do it.
    """
    history = read_journal(folder)
    # The parameters are those of the first start, and tags follow the last one.
    automatic = history.tags.get("promote", history.params.get("promote")) == "better"
    with _registry(Path(os.path.abspath(folder)).parent, "the champion") as client:
        version = client.get_model_version(registered.name, str(registered.version))
        if version.tags.get(OFFERED) == "true":
            return
        # Without the file the bundle was left out on purpose.
        failed = folder / BUNDLE_LOG
        lacks = failed if BUNDLE not in version.tags and failed.exists() else None
        if offer_champion(client, version, automatic=automatic, lacks_bundle=lacks):
            client.set_model_version_tag(version.name, version.version, OFFERED, "true")


def rollback(name: str, *, runs: Path, reason: str = "") -> Promoted:
    """Make the champion of the registered model `name` what it was before, and `previous` what it is now.

    Raises: TrackingError if there is nothing to go back to, or that is not proven.
    """
    with _registry(runs, "the champion") as client:
        standing, begun = finish_begun(client, name)
        if begun and begun.how == ROLLED_BACK and standing.champion:  # the same command, which was cut off
            return _done(standing.champion, begun.why, before=standing.previous)
        if news := set_by_hand(client, standing):
            logger.warning("%s", news)
        previous, champion = standing.previous, standing.champion
        if previous is None or (champion and number(champion) == number(previous)):
            raise TrackingError(
                f"{name} has nothing to go back to: "
                + (
                    f"no version has the alias {PREVIOUS}"
                    if previous is None
                    else f"{PREVIOUS} is {CHAMPION}"
                )
                + "; promote another version, or set the alias in MLflow's UI"
            )
        _require_proven(client, previous, runs)
        move = standing.next_move(number(previous), ROLLED_BACK, reason or "no reason was given")
        carry_out(client, standing, move)
        return _done(previous, move.why, before=champion)


def record_accuracy(uri: str, val_digest: str, top1: float, *, runs: Path) -> None:
    """Note the accuracy of a registered version on other validation images than its run's.

    Args:
        uri: `models:/NAME/VERSION`.
        val_digest: of the images.
        top1: in 0..1.
        runs: as for `promote`.
    """
    with _registry(runs, uri) as client:
        version, key = find_version(client, uri), recorded_as(val_digest)
        client.set_model_version_tag(version.name, version.version, key, f"{top1:.6f}")


def version_uri(uri: str, *, runs: Path) -> str:
    """`models:/NAME/VERSION` of what `uri` names now, as an alias may move. Raises: TrackingError."""
    with _registry(runs, uri) as client:
        return uri_of(find_version(client, uri))


@contextmanager
def _registry(runs: Path, what: str) -> Iterator[MlflowClient]:
    from mlflow.exceptions import MlflowException

    tracking = tracking_uri(runs)
    if (database := database_of(tracking)) and not database.exists():
        raise TrackingError(
            f"there is no {database}; set MLFLOW_TRACKING_URI to your server, or name its folder with --runs"
        )
    check_reachable(tracking)
    try:
        with quiet():
            yield connect(tracking)
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"{what} could not be looked up or set in MLflow at {redact(tracking)}: {shortened(error)}; the same "
            "command goes on"
        ) from None


def _require_proven(client: MlflowClient, version: ModelVersion, runs: Path) -> None:
    """See that the version came back from MLflow as it was sent, still does, and says of itself what its files say."""
    uri, tags = uri_of(version), version.tags
    registered = Registered(version.name, number(version), version.run_id or "")
    digest, instead = tags.get(FILES_SHA256), "`trainer sync` its run, or promote another version"
    if tags.get("verified") != "true" or not digest or not tags.get(VAL_DIGEST):
        raise TrackingError(
            f"{uri} is not proven: it has not the tags verified, {FILES_SHA256} and {VAL_DIGEST} of `trainer train`; "
            f"{instead}"
        )
    noted = versions_of(runs, registered)
    if noted and noted != digest:
        raise TrackingError(
            f"{uri} is not what its run registered: the run folder in {runs} has noted another {FILES_SHA256}; look "
            "who has access to MLflow"
        )
    try:
        with downloaded(client, version) as path:
            check_seal(path, digest=digest, required=(WEIGHTS, INFO))
            info, _ = read_info(path)
    except (SealBroken, ValueError) as error:
        raise TrackingError(
            f"{uri} is damaged, or was changed since it was registered: {error}; promote another version"
        ) from None
    if not abs(accuracy(version, tags[VAL_DIGEST]) - info.top1) <= EDITED:
        raise TrackingError(
            f"{uri} has the tag top1 {tags.get('top1')!r}, and its files say {info.top1:.5f}: somebody has changed "
            "the tag; set it right in MLflow's UI"
        )


def _only_model(client: MlflowClient) -> str:
    names = sorted(model.name for model in client.search_registered_models(max_results=20))
    if len(names) == 1:
        return str(names[0])
    there = f"registered are {', '.join(names)}" if names else "nothing is registered there yet, train first"
    raise TrackingError(f"name the MODEL to promote, such as models:/NAME@{CANDIDATE}; {there}")


def _done(version: ModelVersion, why: str, *, before: ModelVersion | None, moved: bool = True) -> Promoted:
    return Promoted(
        model=uri_of(version),
        name=version.name,
        version=number(version),
        previous=number(before) if before else None,
        why=why,
        moved=moved,
    )
