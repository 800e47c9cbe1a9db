"""The model registry: what is registered is what was measured, and what is loaded is what was registered."""

from __future__ import annotations

import copy
import hashlib
import json
import re
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.errors import TrackingError
from trainer.tracking._server import check_reachable, connect, place, quiet, tracking_uri
from trainer.tracking._shipping import run_of

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

FACTS = "facts.json"
SAMPLES = "samples"
WEIGHTS = "data/model.pt2"


@dataclass(frozen=True)
class ModelFacts:
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


@dataclass(frozen=True)
class LoadedModel:
    """A registered model, ready for use on the CPU."""

    module: torch.nn.Module  # from (N, 3, H, W) float32 to (N, classes) logits; in eval mode, N >= 1
    facts: ModelFacts
    samples: tuple[Sample, ...]
    source: Registered
    state_dict: dict[str, torch.Tensor]  # under the names of `trainer.model.build`


def register(
    folder: Path,
    model: torch.nn.Module,
    facts: ModelFacts,
    samples: Sequence[Sample],
    measure: Callable[[torch.nn.Module], tuple[float, float]],
    *,
    name: str,
    images: int,
) -> Registered:
    """Register the model of the finished run in `folder`, load it back, and measure that.

    Only a version that measures the same as the model did gets the alias `candidate`. A run that has
    such a version of these weights keeps it and nothing is done; one cut off half-way is completed.

    Args:
        folder: the run folder; the run is made in MLflow if it is not there yet.
        model: what was measured; it is left as it is.
        facts: with the accuracy that was measured.
        samples: a few validation images.
        measure: top-1 and top-5 (0..1) of a network over all validation images, in full fp32. It gets a
            module on the CPU that may be moved but refuses `.eval()`; it is in eval mode.
        name: of the registered model.
        images: in the validation set; one of them may be judged otherwise, for rounding.

    Raises: TrackingError if MLflow cannot be reached or what it gives back measures otherwise.
    """
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(folder.resolve().parent)
    check_reachable(uri)
    client = connect(uri)
    try:
        with quiet():
            run = run_of(folder, client, uri)
            exportable = _for_export(model)
            weights = _weights_sha256(exportable)
            version = _newest_version(client, f"name='{name}' and run_id='{run.info.run_id}'", weights)
            if version is None:
                version = _upload(client, run, exportable, facts, samples, name, weights)
            if version.tags.get("verified") != "true":
                _verify(client, version, facts, measure, images)
    except MlflowException as error:
        raise TrackingError(
            f"the model of {folder} could not be registered in MLflow at {place(uri)}: {_short(error)}; "
            "the same `trainer train` command tries again"
        ) from None
    return Registered(name, int(version.version), run.info.run_id)


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


def _upload(
    client: MlflowClient,
    run: Run,
    model: torch.nn.Module,
    facts: ModelFacts,
    samples: Sequence[Sample],
    name: str,
    weights: str,
) -> ModelVersion:
    """Store model, facts and samples with the run, and make a version of them.

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
        name=name,
        source_run_id=run.info.run_id,
        params={**run.data.params},
        tags={"architecture": facts.architecture, "recipe": facts.recipe},
        model_type="image-classification",
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model")
        _write_model(path, model, facts, samples, logged.model_id, run.info.run_id, logged.artifact_location)
        digest = _sha256(path / WEIGHTS)
        client.log_model_artifacts(logged.model_id, str(path))
    client.finalize_logged_model(logged.model_id, LoggedModelStatus.READY)
    client.log_outputs(run.info.run_id, [LoggedModelOutput(logged.model_id, step=0)])

    try:
        client.create_registered_model(name)
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
    size = facts.images["val_size"]
    version = client.create_model_version(
        name,
        source=logged.artifact_location,  # models:/ID would be looked up at the process-wide address
        run_id=run.info.run_id,
        model_id=logged.model_id,
        tags={
            "architecture": facts.architecture,
            "recipe": facts.recipe,
            "dataset_digest": facts.dataset_digest,
            "input_name": INPUT_NAME,
            "input_shape": f"N,3,{size},{size}",
            "output_name": OUTPUT_NAME,
            "output": "logits",
            "preprocessing": json.dumps(facts.images),
            "model_sha256": digest,
            "weights_sha256": weights,
        },
    )
    # A server notes this link by itself, an SQLite store does not.
    link = json.dumps([{"name": name, "version": int(version.version)}])
    client.set_logged_model_tags(logged.model_id, {"mlflow.modelVersions": link})
    return version


def _write_model(
    path: Path,
    model: torch.nn.Module,
    facts: ModelFacts,
    samples: Sequence[Sample],
    model_id: str,
    run_id: str,
    location: str,
) -> None:
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
        mlflow_model=Model(
            artifact_path=location, model_uuid=model_id, model_id=model_id, run_id=run_id, signature=signature
        ),
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


def _verify(
    client: MlflowClient,
    version: ModelVersion,
    facts: ModelFacts,
    measure: Callable[[torch.nn.Module], tuple[float, float]],
    images: int,
) -> None:
    import torch

    loaded = _load(client, version, client.tracking_uri)
    with torch.inference_mode():
        top1, top5 = measure(loaded.module)
    allowed = 1.5 / images  # one image, and half a one for the division's rounding
    if not (abs(top1 - facts.top1) <= allowed and abs(top5 - facts.top5) <= allowed):  # nor if it is nan
        raise TrackingError(
            f"{loaded.source.uri} gives top-1 {top1:.4%} and top-5 {top5:.4%} when it is loaded back, and the run "
            f"measured {facts.top1:.4%} and {facts.top5:.4%}; it gets no alias: train again, and report it if it stays"
        )
    # In this order: a version that counts as verified has had its alias, so a repeat takes it from nobody.
    for key, value in {"top1": top1, "top5": top5, "val_images": images}.items():
        client.set_model_version_tag(version.name, version.version, key, str(value))
    client.set_registered_model_alias(version.name, CANDIDATE, version.version)
    client.set_model_version_tag(version.name, version.version, "verified", "true")


def _load(client: MlflowClient, version: ModelVersion, where: str) -> LoadedModel:
    import mlflow.pytorch
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
            facts = ModelFacts(**{**known, "classes": tuple(known["classes"])})
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
        module = mlflow.pytorch.load_model(str(path))
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
