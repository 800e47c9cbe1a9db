"""The model registry: what is registered is what was measured, byte for byte."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import TrackingDown, TrackingError
from trainer.files import read_json, write_json
from trainer.sealed import SealBroken, check_seal, listed, seal
from trainer.tracking._candidate import VAL_DIGEST, offer_candidate
from trainer.tracking._description import (
    NOTE,
    may_replace,
    model_description,
    run_description,
    version_description,
)
from trainer.tracking._history import RunHistory, read_journal
from trainer.tracking._report import with_report_of
from trainer.tracking._run_state import last_evaluation
from trainer.tracking._saved_model import INFO, MODEL, SAVED, SavedModel, read_saved_model
from trainer.tracking._server import (
    check_reachable,
    connect,
    is_outage,
    quiet,
    redact,
    run_tracking_uri,
    shortened,
)
from trainer.tracking._sync import run_of
from trainer.tracking._versions import FILES_SHA256, newest_version
from trainer.tracking._weights import WEIGHTS

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

CARD = "MLmodel"  # the one file that differs from the run folder's: it has MLflow's ids
REGISTERED = "registered.json"  # in the run folder: the versions of its model, for whom the server is not the last word


@dataclass(frozen=True)
class Registered:
    """A version of a registered model."""

    name: str
    version: int
    run_id: str

    @property
    def uri(self) -> str:
        """What `load_model`, `trainer evaluate` and `trainer export` take."""
        return f"models:/{self.name}/{self.version}"


def register(folder: Path, *, candidate: bool = False) -> Registered:
    """Register the model that `save_model` wrote, download it, and see that every byte came through.

    Only such a version gets the alias `candidate`, and only if it is not worse than the one that has it. The accuracy
    becomes tags of run and version, and both get a description. A run that has such a version of these weights keeps it
    and nothing is done; one cut off half-way is completed.

    Args:
        folder: the run folder; the run is made in MLflow if it is not there yet.
        candidate: give it the alias also if it is worse.

    Raises: TrackingError if there is no saved model, MLflow does not take it, or gives back another;
        TrackingDown if MLflow does not answer.
    """
    from mlflow.exceptions import MlflowException

    uri = run_tracking_uri(folder)
    saved, stored = read_saved_model(folder)
    info = asdict(stored)
    history = read_journal(folder)
    val_digest = (history.dataset and history.dataset.val_digest) or stored.dataset_digest
    check_reachable(uri)
    try:
        with quiet():
            client = connect(uri)
            run = run_of(folder, client)
            of_this_run = f"name='{saved.name}' and run_id='{run.info.run_id}'"
            version = newest_version(client, of_this_run, saved.weights_sha256)
            if version is None:
                version = _upload(client, run, folder, saved, info, history)
            if version.tags.get("verified") != "true":
                # In this order: a version that counts as verified was offered the alias, so a repeat takes it from
                # nobody.
                _verify(client, version, folder, saved, val_digest, candidate)
                client.set_model_version_tag(version.name, version.version, "verified", "true")
            elif candidate:
                offer_candidate(client, version, saved.top1, val_digest, force=True)
            registered = Registered(saved.name, int(version.version), run.info.run_id)
            _describe(folder, client, run, version, history, saved, info, registered)
            _note(folder, registered, version.tags[FILES_SHA256])
    except MlflowException as error:
        kind = TrackingDown if is_outage(error) else TrackingError
        raise kind(
            f"the model of {folder} could not be registered in MLflow at {redact(uri)}: {shortened(error)}; "
            f"`trainer sync {folder}` tries again"
        ) from None
    except OSError as error:
        raise TrackingError(
            f"the model of {folder} could not be sent to MLflow: {error.strerror or error}; "
            f"`trainer sync {folder}` tries again"
        ) from None
    return registered


def _upload(
    client: MlflowClient,
    run: Run,
    folder: Path,
    saved: SavedModel,
    info: Mapping[str, Any],
    history: RunHistory,
) -> ModelVersion:
    """Store the saved model with the run, and make a version of it.

    Not mlflow.pytorch.log_model: that starts the run again, changes the process's tracking address,
    and runs an example through a copy of the model.
    """
    from mlflow.entities import LoggedModelOutput, LoggedModelStatus
    from mlflow.exceptions import MlflowException

    experiment = run.info.experiment_id
    for left in client.search_logged_models([experiment], f"source_run_id = '{run.info.run_id}'"):
        if left.status != LoggedModelStatus.READY:
            client.delete_logged_model(left.model_id)  # an upload that was cut off

    logged = client.create_logged_model(
        experiment,
        name=saved.name,
        source_run_id=run.info.run_id,
        params={**run.data.params},
        tags={"architecture": info["architecture"], "recipe": info["recipe"]},
        model_type="image-classification",
    )
    with _with_ids(folder, logged.model_id, run.info.run_id, logged.artifact_location) as path:
        files_sha256 = seal(path)
        client.log_model_artifacts(logged.model_id, str(path))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    client.log_outputs(run.info.run_id, [LoggedModelOutput(logged.model_id, step=0)])
    client.log_batch(run.info.run_id, metrics=last_evaluation(history, logged.model_id))

    try:
        client.create_registered_model(saved.name, description=model_description(history, saved, info))
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    version = client.create_model_version(
        saved.name,
        source=logged.artifact_location,  # models:/ID would be looked up at the process-wide address
        run_id=run.info.run_id,
        model_id=logged.model_id,
        tags={
            # What a list of versions is read for; all else is in the description and in info.json.
            "recipe": info["recipe"],
            "dataset": history.dataset.name if history.dataset else "unknown",
            "git_commit": history.tags.get("git_commit", "unknown")[:10],
            FILES_SHA256: files_sha256,
            "weights_sha256": saved.weights_sha256,
        },
    )
    # A server notes this link by itself, an SQLite store does not.
    link = json.dumps([{"name": saved.name, "version": int(version.version)}])
    client.set_logged_model_tags(logged.model_id, {"mlflow.modelVersions": link})
    return version


@contextmanager
def _with_ids(folder: Path, model_id: str, run_id: str, location: str) -> Iterator[Path]:
    """The saved model with MLflow's own ids for it written in."""
    from mlflow.models import Model

    with tempfile.TemporaryDirectory(prefix=".upload-", dir=folder) as name:
        path = Path(name, MODEL)
        shutil.copytree(folder / MODEL, path, ignore=shutil.ignore_patterns(SAVED))
        card = Model.load(str(path / CARD))
        card.artifact_path, card.run_id = location, run_id
        card.model_uuid = card.model_id = model_id
        card.save(str(path / CARD))
        yield path


@contextmanager
def downloaded(client: MlflowClient, version: ModelVersion) -> Iterator[Path]:
    """The files of a version, in a folder of their own; what they are worth says `check_seal`."""
    from mlflow.artifacts import download_artifacts

    with tempfile.TemporaryDirectory(prefix="trainer-") as folder:
        # By its location, for models:/NAME would be looked up at the process-wide address.
        stored = client.get_model_version_download_uri(version.name, version.version)
        yield Path(download_artifacts(artifact_uri=stored, dst_path=folder, tracking_uri=client.tracking_uri))


def versions_of(runs: Path, registered: Registered) -> str | None:
    """What the run folders below `runs` say is the `files_sha256` of a version; None if they do not know it."""
    return next((digest for _, digest in _noted(runs, registered)), None)


def run_folder_of(runs: Path, registered: Registered) -> Path | None:
    """The run folder below `runs` that registered this version; None if it is not there."""
    return next((folder for folder, _ in _noted(runs, registered)), None)


def _noted(runs: Path, registered: Registered) -> Iterator[tuple[Path, str]]:
    for path in runs.glob(f"*/{REGISTERED}"):
        try:
            noted = read_json(path)
            if {**noted, **asdict(registered)} == noted:
                yield path.parent, str(noted[FILES_SHA256])
        except (OSError, ValueError, TypeError, LookupError):
            continue


def _note(folder: Path, registered: Registered, files_sha256: str) -> None:
    write_json(folder / REGISTERED, {**asdict(registered), FILES_SHA256: files_sha256})


def _verify(
    client: MlflowClient,
    version: ModelVersion,
    folder: Path,
    saved: SavedModel,
    val_digest: str,
    candidate: bool,
) -> None:
    """See that every file came back as it was sent, and offer such a version the alias."""
    ours = {name: digest for name, digest in listed(folder / MODEL).items() if name != CARD}
    try:
        with downloaded(client, version) as path:
            check_seal(path, digest=version.tags[FILES_SHA256], required=(WEIGHTS, INFO))
            theirs = {name: digest for name, digest in listed(path).items() if name != CARD}
            if theirs != ours:
                raise SealBroken("the files are not those of the run")
    except SealBroken as error:
        raise TrackingError(
            f"models:/{version.name}/{version.version} came back from MLflow otherwise than it was sent ({error}); "
            "it gets no alias: look at the server's disk, delete the version, and `trainer sync` the run"
        ) from None
    for key, value in {**_accuracy_tags(saved), VAL_DIGEST: val_digest}.items():
        client.set_model_version_tag(version.name, version.version, key, value)
    offer_candidate(client, version, saved.top1, val_digest, force=candidate)


def _describe(
    folder: Path,
    client: MlflowClient,
    run: Run,
    version: ModelVersion,
    history: RunHistory,
    saved: SavedModel,
    info: Mapping[str, Any],
    registered: Registered,
) -> None:
    """Give the run its accuracy as tags, and run and version a description unless somebody has written another."""
    from mlflow.entities import RunTag

    tags = {**_accuracy_tags(saved), "top5": str(saved.top5), "val_images": str(saved.num_images)}
    description = with_report_of(folder, run, run_description(history, saved, registered.uri))
    if may_replace(run.data.tags.get(NOTE)):
        tags[NOTE] = description
    changed = [RunTag(key, value) for key, value in tags.items() if run.data.tags.get(key) != value]
    client.log_batch(run.info.run_id, tags=changed)
    text = with_report_of(folder, run, version_description(history, saved, info, registered.uri))
    if may_replace(version.description) and version.description != text:
        client.update_model_version(version.name, version.version, text)


def _accuracy_tags(saved: SavedModel) -> dict[str, str]:
    """The accuracy in fp32 of the model that was registered: a share, to be read and compared."""
    # Rounded down, so that it is never more than what another one of the same accuracy has.
    return {"top1": str(math.floor(saved.top1 * 100_000 + 1e-6) / 100_000)}
