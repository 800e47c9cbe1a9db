"""A bundle is where a device finds it: beside the run's files, with its place and digest on the version."""

from __future__ import annotations

import hashlib
import json
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.tracking.conftest import Server
from tests.tracking.models import finished_run, network, register_it
from trainer.cli import main
from trainer.errors import TrackingError
from trainer.sealed import seal
from trainer.tracking import Registered, load_model, log_bundle, tracking_uri
from trainer.tracking._server import connect


def write_bundle(folder: Path, of: Registered, *, top1: float = 0.7512, int8: bool = True) -> Path:
    """What looks like one."""
    (folder / "golden").mkdir(parents=True)
    (folder / "golden" / "0.jpeg").write_bytes(b"photo")
    (folder / "preprocess.json").write_text(json.dumps({"model": {"source": of.uri, "run_id": of.run_id}}))
    files = ["model.onnx", "model_batch1.onnx", "model_fp16.onnx", *(["model_int8.onnx"] if int8 else [])]
    variants = [
        {
            "file": name,
            "top1": {"validation": top1, "whole_frame": 0.5},
            "max_difference": 1.25e-7,
            "bytes": 3,
        }
        for name in files
    ]
    for name in files:
        (folder / name).write_bytes(b"net")
    (folder / "variants.json").write_text(json.dumps({"variants": variants}))
    seal(folder)
    return folder


def tags_of(registered: Registered, runs: Path) -> dict[str, str]:
    version = connect(tracking_uri(runs)).get_model_version(registered.name, str(registered.version))
    return {key: value for key, value in version.tags.items() if key.startswith(("onnx", "bundle"))}


def test_a_device_finds_each_file_with_rest_alone_and_the_model_is_still_whole(
    server: Server, tmp_path: Path
) -> None:
    runs = tmp_path / "runs"
    registered = register_it(finished_run(runs / "r"), network())
    bundle = write_bundle(runs / "r" / "bundle", registered)

    assert log_bundle(registered, bundle, runs=runs)

    tags = tags_of(registered, runs)
    for name in ("SHA256SUMS", "model.onnx", "golden/0.jpeg"):
        address = f"{server.uri}/api/2.0/mlflow-artifacts/artifacts/{tags['bundle']}/{name}"
        with urllib.request.urlopen(address) as answer:
            assert answer.read() == (bundle / name).read_bytes()
    assert tags["bundle"].endswith(f"/{registered.run_id}/artifacts/bundle")
    assert tags["bundle_sha256"] == hashlib.sha256((bundle / "SHA256SUMS").read_bytes()).hexdigest()
    assert tags["onnx_fp32_top1"] == tags["onnx_int8_top1"] == "0.75120"
    assert (tags["onnx_fp16_max_difference"], tags["onnx_fp16_bytes"]) == ("1.2e-07", "3")
    assert load_model(registered.uri, runs=runs).info.architecture == "tiny"


def test_it_is_sent_once_and_another_one_takes_its_place(runs: Path, tmp_path: Path) -> None:
    registered = register_it(finished_run(runs / "r"), network())
    bundle = write_bundle(runs / "r" / "bundle", registered)
    assert log_bundle(registered, bundle, runs=runs)
    assert not log_bundle(registered, bundle, runs=runs)
    first = tags_of(registered, runs)

    other = write_bundle(tmp_path / "other", registered, top1=0.5, int8=False)
    assert log_bundle(registered, other, runs=runs)

    second = tags_of(registered, runs)
    place = Path(unquote(urlsplit(first["bundle"]).path))  # a whole address, for there is no server
    assert (place / "SHA256SUMS").read_bytes() == (other / "SHA256SUMS").read_bytes()
    assert second["bundle_sha256"] != first["bundle_sha256"]
    assert (second["onnx_fp32_top1"], "onnx_int8_top1" in second) == ("0.50000", False)


@pytest.mark.parametrize(
    ("harm", "why"),
    [("damaged", "model.onnx is not what SHA256SUMS says"), ("another", "it is of another model")],
)
def test_one_that_is_not_the_versions_is_refused(runs: Path, harm: str, why: str) -> None:
    registered = register_it(finished_run(runs / "r"), network())
    of = replace(registered, version=9) if harm == "another" else registered
    bundle = write_bundle(runs / "r" / "bundle", of)
    if harm == "damaged":
        (bundle / "model.onnx").write_bytes(b"nut")

    with pytest.raises(TrackingError, match=rf"is not in MLflow \({why}\); remove it and export"):
        log_bundle(registered, bundle, runs=runs)
    assert tags_of(registered, runs) == {}


@pytest.mark.parametrize("other", [{"version": 3}, {"run_id": "0" * 32}])
def test_a_run_goes_to_another_server_without_the_bundle_of_its_version_on_the_first(
    runs: Path, capsys: pytest.CaptureFixture[str], other: dict[str, Any]
) -> None:
    registered = register_it(finished_run(runs / "r"), network())
    bundle = write_bundle(runs / "r" / "bundle", replace(registered, **other))

    assert main(["sync", str(runs / "r")]) == 0
    again = f"trainer export models:/tiny/1 --runs '{runs}' --log"
    assert f"{bundle} is of another version, as of another server's" in (said := capsys.readouterr().err)
    assert again in said
    assert tags_of(registered, runs) == {}


def test_a_server_that_is_down_is_a_sentence_with_the_command_that_tries_again(
    runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registered = register_it(finished_run(runs / "r"), network())
    bundle = write_bundle(runs / "r" / "bundle", registered)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")

    with pytest.raises(TrackingError, match=r"127\.0\.0\.1:9"):
        log_bundle(registered, bundle, runs=runs)
