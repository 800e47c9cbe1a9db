"""The bundle of a registered version in MLflow: its files beside the run's, and on the version where they are.

    bundle                      path of the files below /api/2.0/mlflow-artifacts/artifacts/, as a device asks for them,
                                or their whole address where the artifacts are not behind the server
    bundle_sha256               SHA-256 of the bundle's SHA256SUMS
    onnx_fp32_top1, …           of model.onnx: share of the validation images in 0..1, cropped as in validation …
    onnx_fp32_max_difference, … … largest difference of a probability from PyTorch's …
    onnx_fp32_bytes, …          … and size; the same of model_fp16.onnx and model_int8.onnx

They are not among the files of the model: those are sealed, and whoever loads the model would download them too.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from trainer.errors import TrackingError
from trainer.files import read_json
from trainer.sealed import SUMS, SealBroken, check_seal, sha256
from trainer.tracking._server import check_reachable, connect, quiet, redact, shortened, tracking_uri

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

    from trainer.tracking._registry import Registered

BUNDLE = "bundle"  # the folder in the run folder and among the artifacts, and the tag of the version
BUNDLE_LOG = (
    "bundle.log"  # in the run folder once the end of the run has begun with it: what the process says
)
BUNDLE_SHA256 = "bundle_sha256"  # tag of the version
PREPROCESS, VARIANTS = "preprocess.json", "variants.json"
PROXY = "mlflow-artifacts:/"
TAGGED = {"model.onnx": "fp32", "model_fp16.onnx": "fp16", "model_int8.onnx": "int8"}


def log_bundle(registered: Registered, bundle: Path, *, runs: Path) -> bool:
    """Send the bundle of a registered version, see that it came through, and tag the version with it.

    Args:
        registered: the version, whose run has the files.
        bundle: its sealed folder.
        runs: folder of MLflow's SQLite store, where MLFLOW_TRACKING_URI names no server.

    Returns: whether it was sent; False if this bundle was there already.
    Raises: TrackingError if the bundle is damaged, or MLflow does not take it or gives back another.
    """
    from mlflow.exceptions import MlflowException

    uri = tracking_uri(runs)
    try:
        check_reachable(uri)
        with quiet():
            client = connect(uri)
            version = client.get_model_version(registered.name, str(registered.version))
            return _send(client, registered, version, bundle)
    except SealBroken as error:
        raise TrackingError(
            f"the bundle {bundle} of {registered.uri} is not in MLflow ({error}); remove it and export the model again"
        ) from None
    except (ValueError, LookupError, TypeError) as error:
        raise TrackingError(f"the bundle {bundle} is not what `trainer export` writes ({error})") from None
    except (MlflowException, OSError) as error:
        raise TrackingError(
            f"the bundle of {registered.uri} could not be sent to MLflow at {redact(uri)}: {shortened(error)}; "
            f"`trainer export {registered.uri} --log` tries again"
        ) from None


def is_bundle_of(registered: Registered, bundle: Path) -> bool:
    """Whether `bundle` says that it was made of this version; False if nothing readable is there.

    Another server numbers versions anew, so that the one in a run folder may be of another version than its model is
    there.
    """
    try:
        model = read_json(bundle / PREPROCESS)["model"]
        return bool((model["source"], model["run_id"]) == (registered.uri, registered.run_id))
    except (OSError, ValueError, LookupError, TypeError):
        return False


def _send(client: MlflowClient, registered: Registered, version: ModelVersion, bundle: Path) -> bool:
    check_seal(bundle, required=(PREPROCESS, VARIANTS), ignored=None)
    if not is_bundle_of(registered, bundle):
        raise SealBroken("it is of another model")
    digest = sha256(bundle / SUMS)
    if version.tags.get(BUNDLE_SHA256) == digest:
        return False
    run = client.get_run(registered.run_id)
    client.log_artifacts(run.info.run_id, str(bundle), BUNDLE)
    _check(client, run.info.run_id, digest, scratch=bundle.parent)
    place = f"{run.info.artifact_uri}/{BUNDLE}"
    if place.startswith(PROXY):
        place = urlsplit(place).path.lstrip("/")
    # The digest comes last: with it, all is there.
    tags = {**_measured(read_json(bundle / VARIANTS)), BUNDLE: place, BUNDLE_SHA256: digest}
    for key in version.tags.keys() - tags.keys():
        if key.startswith("onnx_"):  # of an earlier bundle
            client.delete_model_version_tag(version.name, version.version, key)
    for key, value in tags.items():
        client.set_model_version_tag(version.name, version.version, key, value)
    return True


def _check(client: MlflowClient, run_id: str, digest: str, *, scratch: Path) -> None:
    """See that what came through is what was sent; a container's /tmp may be too small for it."""
    with tempfile.TemporaryDirectory(prefix=".bundle-", dir=scratch) as folder:
        path = Path(client.download_artifacts(run_id, BUNDLE, folder))
        # Files of an earlier bundle may lie there: a device takes those of the listing.
        check_seal(path, required=(VARIANTS,), digest=digest, ignored=None)


def _measured(described: dict[str, Any]) -> dict[str, str]:
    """Tags of each variant, as `variants.json` has its numbers."""
    tags = {}
    for one in described["variants"]:
        if name := TAGGED.get(one["file"]):
            if one["top1"]:
                tags[f"onnx_{name}_top1"] = f"{one['top1']['validation']:.5f}"
            tags[f"onnx_{name}_max_difference"] = f"{one['max_difference']:.2g}"
            tags[f"onnx_{name}_bytes"] = str(one["bytes"])
    return tags
