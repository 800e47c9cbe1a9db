"""The model registry: what is registered is what was measured, and what is loaded is what was registered."""

from __future__ import annotations

import copy
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trainer.errors import TrackingDown, TrackingError
from trainer.tracking._server import check_reachable, connect, is_outage, place, quiet, tracking_uri
from trainer.tracking._sync import run_of

if TYPE_CHECKING:
    import torch
    from mlflow import MlflowClient
    from mlflow.entities import Run
    from mlflow.entities.model_registry import ModelVersion

CANDIDATE = "candidate"  # alias of the newest verified version
INPUT_NAME, OUTPUT_NAME = (
    "input_0",
    "output_0",
)  # of the ends of the network; as in jetson-inference's tutorials

MODEL = "model"  # the folder in the run folder
SAVED = "saved.json"  # in it, and not registered with it
FACTS = "facts.json"
SAMPLES = "samples"
WEIGHTS = "data/model.pt2"


@dataclass(frozen=True)
class ModelInfo:
    """What must be known about a model to use it; stored with it."""

    architecture: str
    classes: tuple[str, ...]  # in label order
    images: dict[str, Any]  # the preprocessing: val_resize, val_size, mean, std, … ; plain JSON
    recipe: str
    top1: float  # share of the validation images in 0..1
    top5: float  # share of the validation images in 0..1
    dataset_digest: str


@dataclass(frozen=True)
class Sample:
    """A validation image that goes with the model, to try it on."""

    name: str  # of the file, without folders
    jpeg: bytes
    label: int


@dataclass(frozen=True)
class Registered:
    """A version of a registered model."""

    name: str
    version: int
    run_id: str

    @property
    def uri(self) -> str:
        """What `load`, `trainer evaluate` and `trainer export` take."""
        return f"models:/{self.name}/{self.version}"


class _Saved(NamedTuple):
    """What `save_model` found about the model it wrote."""

    name: str  # to register it under
    weights_sha256: str
    model_sha256: str  # of the file
    top1: float  # as loaded back, share of the validation images in 0..1
    top5: float
    images: int  # validation images


@dataclass(frozen=True)
class LoadedModel:
    """A registered model, ready for use on the CPU."""

    module: torch.nn.Module  # from (N, 3, H, W) float32 to (N, classes) logits; in eval mode, N >= 1
    facts: ModelInfo
    samples: tuple[Sample, ...]
    source: Registered
    state_dict: dict[str, torch.Tensor]  # under the names of `trainer.model.build`


def save_model(
    folder: Path,
    model: torch.nn.Module,
    facts: ModelInfo,
    samples: Sequence[Sample],
    measure: Callable[[torch.nn.Module], tuple[float, float]],
    *,
    name: str,
    images: int,
) -> None:
    """Write the trained model to `model/` in the run folder, as it will be registered; load and measure that.

    The folder is complete or absent. One that holds these weights already is left as it is.

    Args:
        folder: the run folder.
        model: what was measured; it is left as it is.
        facts: with the accuracy that was measured.
        samples: a few validation images.
        measure: top-1 and top-5 (0..1) of a network over all validation images, in full fp32. It gets a
            module on the CPU that may be moved but refuses `.eval()`; it is in eval mode.
        name: under which it shall be registered.
        images: in the validation set; one of them may be judged otherwise, for rounding.

    Raises: TrackingError if what is loaded back measures otherwise, or the disk does not take it.
    """
    import torch

    exportable = _for_export(model)
    weights = _weights_sha256(exportable)
    final, partial = folder / MODEL, folder / f".{MODEL}"
    if has_saved_model(folder) and json.loads((final / SAVED).read_text())["weights_sha256"] == weights:
        return
    try:
        for path in (partial, final):
            shutil.rmtree(path, ignore_errors=True)
        with quiet():
            _write_model(partial, exportable, facts, samples)
            with torch.inference_mode():
                top1, top5 = measure(_module(partial))
        allowed = 1.5 / images  # one image, and half a one for the division's rounding
        if not (abs(top1 - facts.top1) <= allowed and abs(top5 - facts.top5) <= allowed):  # nor if it is nan
            raise TrackingError(
                f"the model of {folder} gives top-1 {top1:.4%} and top-5 {top5:.4%} when it is loaded back, and the "
                f"run measured {facts.top1:.4%} and {facts.top5:.4%}; it is not registered: train again, and report "
                "it if it stays"
            )
        saved = _Saved(name, weights, _sha256(partial / WEIGHTS), top1, top5, images)
        (partial / SAVED).write_text(json.dumps(saved._asdict(), indent=2) + "\n")
        for path in partial.rglob("*"):
            if path.is_file():
                with path.open("rb") as file:
                    os.fsync(file.fileno())
        partial.rename(final)
    except OSError as error:
        raise TrackingError(
            f"the model of {folder} cannot be written: {error.strerror}; make room and start again to go on"
        ) from None


def has_saved_model(folder: Path) -> bool:
    """Whether the run in `folder` has come so far that its model can be registered."""
    return (folder / MODEL / SAVED).exists()


def register(folder: Path) -> Registered:
    """Register the model that `save_model` wrote, download it, and see that every byte came through.

    Only such a version gets the alias `candidate`. A run that has such a version of these weights keeps it
    and nothing is done; one cut off half-way is completed.

    Args:
        folder: the run folder; the run is made in MLflow if it is not there yet.

    Raises: TrackingError if there is no saved model, MLflow does not take it, or gives back another;
        TrackingDown if MLflow does not answer.
    """
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(folder.resolve().parent)
    try:
        saved = _Saved(**json.loads((folder / MODEL / SAVED).read_text()))
    except FileNotFoundError:
        raise TrackingError(
            f"{folder} has no {MODEL}/ to register; it is written at the end of training"
        ) from None
    check_reachable(uri)
    client = connect(uri)
    try:
        with quiet():
            run = run_of(folder, client, uri)
            which = f"name='{saved.name}' and run_id='{run.info.run_id}'"
            version = _newest_version(client, which, saved.weights_sha256)
            if version is None:
                version = _upload(client, run, folder, saved)
            if version.tags.get("verified") != "true":
                _verify(client, version, saved)
    except MlflowException as error:
        kind = TrackingDown if is_outage(error) else TrackingError
        raise kind(
            f"the model of {folder} could not be registered in MLflow at {place(uri)}: {_short(error)}; "
            f"`trainer sync {folder}` tries again"
        ) from None
    except OSError as error:
        raise TrackingError(
            f"the model of {folder} could not be sent to MLflow: {error.strerror or error}; "
            f"`trainer sync {folder}` tries again"
        ) from None
    return Registered(saved.name, int(version.version), run.info.run_id)


def load(uri: str, *, runs: Path = Path("runs")) -> LoadedModel:
    """Load a registered model with all that was stored with it.

    Args:
        uri: `models:/NAME@ALIAS`, `models:/NAME/VERSION` or `runs:/RUN_ID` (its newest version).
        runs: where to find the MLflow file, if MLFLOW_TRACKING_URI names no server.

    Raises: TrackingError that names what there is, if there is no such model; if MLflow cannot be
        reached; or if the stored model is damaged or not one of ours.
    """
    from mlflow.exceptions import MlflowException

    where = tracking_uri(runs)
    if where.startswith("sqlite:///") and not Path(where.removeprefix("sqlite:///")).exists():
        raise TrackingError(
            f"{uri} cannot be looked up: there is no {where.removeprefix('sqlite:///')}; "
            "set MLFLOW_TRACKING_URI to your server, or train first"
        )
    check_reachable(where)
    client = connect(where)
    try:
        with quiet():
            return _load(client, _find(client, uri, place(where)), where)
    except MlflowException as error:
        raise TrackingError(
            f"{uri} could not be loaded from MLflow at {place(where)}: {_short(error)}"
        ) from None


def _upload(client: MlflowClient, run: Run, folder: Path, saved: _Saved) -> ModelVersion:
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

    facts = json.loads((folder / MODEL / FACTS).read_text())
    logged = client.create_logged_model(
        experiment,
        name=saved.name,
        source_run_id=run.info.run_id,
        params={**run.data.params},
        tags={"architecture": facts["architecture"], "recipe": facts["recipe"]},
        model_type="image-classification",
    )
    with _addressed(folder, logged.model_id, run.info.run_id, logged.artifact_location) as path:
        client.log_model_artifacts(logged.model_id, str(path))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    client.log_outputs(run.info.run_id, [LoggedModelOutput(logged.model_id, step=0)])

    try:
        client.create_registered_model(saved.name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    size = facts["images"]["val_size"]
    version = client.create_model_version(
        saved.name,
        source=logged.artifact_location,  # models:/ID would be looked up at the process-wide address
        run_id=run.info.run_id,
        model_id=logged.model_id,
        tags={
            "architecture": facts["architecture"],
            "recipe": facts["recipe"],
            "dataset_digest": facts["dataset_digest"],
            "input_name": INPUT_NAME,
            "input_shape": f"N,3,{size},{size}",
            "output_name": OUTPUT_NAME,
            "output": "logits",
            "preprocessing": json.dumps(facts["images"]),
            "model_sha256": saved.model_sha256,
            "weights_sha256": saved.weights_sha256,
        },
    )
    # A server notes this link by itself, an SQLite store does not.
    link = json.dumps([{"name": saved.name, "version": int(version.version)}])
    client.set_logged_model_tags(logged.model_id, {"mlflow.modelVersions": link})
    return version


@contextmanager
def _addressed(folder: Path, model_id: str, run_id: str, location: str) -> Iterator[Path]:
    """The saved model with MLflow's own numbers for it written in."""
    from mlflow.models import Model

    with tempfile.TemporaryDirectory(prefix=".upload-", dir=folder) as name:
        path = Path(name, MODEL)
        shutil.copytree(folder / MODEL, path, ignore=shutil.ignore_patterns(SAVED))
        card = Model.load(str(path / "MLmodel"))
        card.artifact_path, card.run_id = location, run_id
        card.model_uuid = card.model_id = model_id
        card.save(str(path / "MLmodel"))
        yield path


def _write_model(path: Path, model: torch.nn.Module, facts: ModelInfo, samples: Sequence[Sample]) -> None:
    import mlflow.pytorch
    import numpy as np
    import torch
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    size = facts.images["val_size"]
    one = np.dtype(np.float32)
    signature = ModelSignature(
        inputs=Schema([TensorSpec(one, (-1, 3, size, size))]),
        outputs=Schema([TensorSpec(one, (-1, len(facts.classes)))]),
    )
    mlflow.pytorch.save_model(
        model,
        str(path),
        mlflow_model=Model(signature=signature),
        signature=signature,
        # A batch of 1 would be taken for the only size there is. Zeros, for they are stored as text.
        input_example=np.zeros((2, 3, size, size), np.float32),
        # Given, or else MLflow finds out in a process of its own, which takes longer than the rest.
        pip_requirements=[f"torch=={torch.__version__.partition('+')[0]}", "numpy"],
        serialization_format="pt2",
        metadata={"facts": FACTS, "samples": SAMPLES},
    )
    (path / SAMPLES).mkdir()
    names = _unique([sample.name for sample in samples])
    for name, sample in zip(names, samples, strict=True):
        (path / SAMPLES / name).write_bytes(sample.jpeg)
    labels = {name: sample.label for name, sample in zip(names, samples, strict=True)}
    (path / FACTS).write_text(json.dumps({**asdict(facts), "labels": labels}, indent=2) + "\n")


def _module(path: Path) -> torch.nn.Module:
    import mlflow.pytorch

    module: torch.nn.Module = mlflow.pytorch.load_model(str(path))
    return module


def _unique(names: Sequence[str]) -> list[str]:
    """The names; numbered if two folders had a file of the same name."""
    if len(set(names)) == len(names):
        return list(names)
    return [f"{index}-{name}" for index, name in enumerate(names)]


def _for_export(model: torch.nn.Module) -> torch.nn.Module:
    """A copy of `model` on the CPU, fp32, in eval mode, not compiled; weights stay channels-last if they are.

    torch.export.save warns of channels-last weights, yet they come back bit-equal and in that layout,
    so the same kernels run and the same numbers come out.
    """
    return copy.deepcopy(getattr(model, "_orig_mod", model)).cpu().float().eval().requires_grad_(False)


def _verify(client: MlflowClient, version: ModelVersion, saved: _Saved) -> None:
    from mlflow.artifacts import download_artifacts

    stored = client.get_model_version_download_uri(version.name, version.version)
    with tempfile.TemporaryDirectory() as folder:
        weights = download_artifacts(
            artifact_uri=f"{stored}/{WEIGHTS}", dst_path=folder, tracking_uri=client.tracking_uri
        )
        digest = _sha256(Path(weights))
    if digest != saved.model_sha256:
        raise TrackingError(
            f"models:/{version.name}/{version.version} came back from MLflow with another SHA-256 than it had; "
            "it gets no alias: look at the server's disk, and train again or `trainer sync` the run"
        )
    # In this order: a version that counts as verified has had its alias, so a repeat takes it from nobody.
    for key, value in {"top1": saved.top1, "top5": saved.top5, "val_images": saved.images}.items():
        client.set_model_version_tag(version.name, version.version, key, str(value))
    client.set_registered_model_alias(version.name, CANDIDATE, version.version)
    client.set_model_version_tag(version.name, version.version, "verified", "true")


def _load(client: MlflowClient, version: ModelVersion, where: str) -> LoadedModel:
    from mlflow.artifacts import download_artifacts

    source = Registered(version.name, int(version.version), version.run_id or "")
    with tempfile.TemporaryDirectory() as folder:
        # By its location, for models:/NAME would be looked up at the process-wide address.
        stored = client.get_model_version_download_uri(version.name, version.version)
        path = Path(download_artifacts(artifact_uri=stored, dst_path=folder, tracking_uri=where))
        try:
            known = json.loads((path / FACTS).read_text())
            digest = _sha256(path / WEIGHTS)
            labels: Mapping[str, int] = known.pop("labels")
            if any(Path(name).name != name for name in labels):
                raise ValueError("a sample's name leads out of its folder")
            facts = ModelInfo(**{**known, "classes": tuple(known["classes"])})
            samples = tuple(
                Sample(n, (path / SAMPLES / n).read_bytes(), label) for n, label in labels.items()
            )
        except (OSError, ValueError, TypeError, KeyError):
            raise TrackingError(
                f"{source.uri} was not registered by `trainer train`, or its files are gone: {FACTS} or {WEIGHTS} "
                "is missing or unreadable; use a version that `trainer train` made"
            ) from None
        if digest != version.tags.get("model_sha256", digest):
            raise TrackingError(
                f"{source.uri} is damaged: {WEIGHTS} has another SHA-256 than when it was registered; "
                "use another version or train again"
            )
        module = _module(path)
    return LoadedModel(module, facts, samples, source, dict(module.state_dict()))


def _find(client: MlflowClient, uri: str, where: str) -> ModelVersion:
    from mlflow.exceptions import MlflowException

    if named := re.fullmatch(r"runs:/([^/]+)(/.*)?", uri):
        version = _newest_version(client, f"run_id='{named[1]}'")
        if version is None:
            raise TrackingError(f"run {named[1]} has no registered model at {where}{_there_are(client)}")
        return version
    named = re.fullmatch(r"models:/([^/@]+)(?:@([^/]+)|/(\d+))", uri)
    if named is None:
        raise TrackingError(
            f"{uri!r} names no model; write models:/NAME@ALIAS, models:/NAME/VERSION or runs:/RUN_ID"
        )
    name, alias, number = named.groups()
    try:
        client.get_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise TrackingError(f"there is no registered model {name} at {where}{_there_are(client)}") from None
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
    there = [f"@{alias} (version {version})" for alias, version in aliases.items()] + [
        f"/{n}" for n in numbers
    ]
    raise TrackingError(f"there is no {uri}; of {name} there are {', '.join(there[:20]) or 'no versions'}")


def _there_are(client: MlflowClient) -> str:
    names = sorted(model.name for model in client.search_registered_models(max_results=20))
    return (
        f"; registered are {', '.join(names)}" if names else "; nothing is registered there yet, train first"
    )


def _newest_version(client: MlflowClient, which: str, weights: str | None = None) -> ModelVersion | None:
    versions = client.search_model_versions(which)
    of_these = [v for v in versions if weights is None or v.tags.get("weights_sha256") == weights]
    return max(of_these, key=lambda version: int(version.version), default=None)


def _weights_sha256(model: torch.nn.Module) -> str:
    """Equal names and weights, equal digest, however they are stored."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.contiguous().numpy())
    return digest.hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
