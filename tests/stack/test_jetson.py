"""From the stack's registry to a device: a container with Debian and curl, on the stack's network."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient

from tests.export.device.changes import channels_of_the_statistics, one_label, one_weight, the_mean
from tests.export.device.conftest import VERSIONS
from tests.stack.conftest import ENVIRONMENT, MARKS, ROOT, Stack
from trainer.config import load_recipe
from trainer.sealed import check_seal, seal

pytestmark = MARKS

NAME = load_recipe("digits").registered_model_name
IMAGES = """\
FROM python:3.13-slim AS bare
RUN apt-get update && apt-get install --yes --no-install-recommends curl && rm -rf /var/lib/apt/lists/*
FROM bare AS onnxruntime
RUN pip install --no-cache-dir numpy onnxruntime pillow
"""


@dataclass(frozen=True)
class Device:
    """A Jetson, as far as there can be one here: `run` starts a command on it, and `folder` is its /model."""

    stack: Stack
    folder: Path

    def run(
        self, *command: str, target: str = "onnxruntime", tensorrt: str = ""
    ) -> subprocess.CompletedProcess[str]:
        """Run a command; `target` says what is installed, `tensorrt` which stand-in of trtexec."""
        stand_ins = ROOT / "tests" / "export" / "device"
        places = {self.folder: "/model", ROOT / "scripts" / "jetson": "/jetson:ro", stand_ins: "/trt:ro"}
        volumes = [f"--volume={host}:{place}" for host, place in places.items()]
        trtexec = ["--env=TRTEXEC=/trt/trtexec", f"--env=TRTEXEC_VERSION={tensorrt}"] if tensorrt else []
        options = [
            "--rm",
            "--read-only",
            "--cap-drop=ALL",
            f"--user={os.getuid() or 1000}",
            *volumes,
            *trtexec,
        ]
        options.append(f"--network={self.stack.project}_tracking")
        return subprocess.run(
            ["docker", "run", *options, f"{self.stack.project}-{target}", *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def pull(self, to: str, *arguments: str, **place: str) -> subprocess.CompletedProcess[str]:
        """Run scripts/jetson/pull."""
        command = ("/jetson/pull", NAME, "--server", "http://mlflow:5000", "--to", f"/model/{to}", *arguments)
        return self.run(*command, **place)


@pytest.fixture(scope="module")
def champion(stack: Stack, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The version that the stack has trained, with its bundle."""
    client = MlflowClient(stack.uri)
    version = client.get_model_version_by_alias(NAME, "candidate")
    if "bundle" not in version.tags:  # the training was not asked for one
        command = [
            sys.executable,
            "-m",
            "trainer",
            "export",
            f"models:/{NAME}@candidate",
            "--log",
            "--parity",
            "none",
        ]
        command += ["--out", str(tmp_path_factory.mktemp("export") / "bundle")]
        subprocess.run(command, check=True, cwd=ROOT, env=ENVIRONMENT | {"MLFLOW_TRACKING_URI": stack.uri})
    client.set_registered_model_alias(NAME, "champion", version.version)
    return client.get_model_version(NAME, version.version)


@pytest.fixture(scope="module")
def device(stack: Stack, champion: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Device]:
    folder = tmp_path_factory.mktemp("device")
    folder.chmod(0o777)
    images = [f"{stack.project}-{target}" for target in ("bare", "onnxruntime")]
    try:
        for image in images:
            command = [
                "docker",
                "build",
                "--quiet",
                "--tag",
                image,
                "--target",
                image.rpartition("-")[2],
                "-",
            ]
            subprocess.run(command, input=IMAGES.encode(), check=True)
        yield Device(stack, folder)
    finally:
        subprocess.run(["docker", "image", "rm", "--force", *images], capture_output=True)


@pytest.fixture(scope="module")
def pulled(device: Device) -> Path:
    """The model on a device that has ONNX Runtime and a trtexec."""
    done = device.pull("verified", tensorrt=str(VERSIONS["10.3.0"]))

    assert done.returncode == 0, done.stdout
    assert "each as it was registered" in done.stdout
    assert "\npassed" in done.stdout
    return device.folder / "verified" / "current"


def test_the_champion_is_on_the_device_and_a_second_pull_does_nothing(
    device: Device, pulled: Path, champion: Any
) -> None:
    again = device.pull("verified")

    assert again.returncode == 0
    assert again.stdout == f"pull: {NAME}@champion is version {champion.version}, which is in use already\n"
    check_seal(
        pulled.resolve(), required=("model.onnx",), digest=champion.tags["bundle_sha256"], ignored=None
    )
    assert len(list((pulled / "engines").glob("fp16-trt10.3.0-*.plan"))) == 1


def test_the_device_names_a_golden_photo_as_the_trainer_did(device: Device, pulled: Path) -> None:
    first = json.loads((pulled / "golden" / "expected.json").read_text())[0]
    current = "/model/verified/current"
    done = device.run("python3", f"{current}/classify.py", f"{current}/{first['photo']}")

    assert done.returncode == 0, done.stdout
    assert f"{first['photo']}: {first['top5'][0]['class']} " in done.stdout


def test_without_any_python_package_the_digests_alone_must_be_asked_for(device: Device, pulled: Path) -> None:
    refused = device.pull("bare", target="bare")
    assert (refused.returncode, "cannot be tried here" in refused.stdout) == (9, True), refused.stdout
    assert not (device.folder / "bare" / "current").exists()

    shutil.rmtree(device.folder / "bare")
    for version, number in VERSIONS.items():
        done = device.pull("bare", "--unverified", target="bare", tensorrt=str(number))
        assert done.returncode == 0, done.stdout
        (engine,) = (device.folder / "bare" / "current" / "engines").glob("*.plan")
        assert engine.name.startswith(f"fp16-trt{version}-")
        shutil.rmtree(device.folder / "bare")


@pytest.mark.parametrize("change", [one_weight, one_label, the_mean, channels_of_the_statistics])
def test_a_changed_copy_of_it_fails(pulled: Path, tmp_path: Path, change: Any) -> None:
    copy = shutil.copytree(pulled, tmp_path / "copy", ignore=shutil.ignore_patterns("engines"))
    change(copy)
    seal(copy)
    done = subprocess.run(
        [sys.executable, copy / "verify.py", copy / "model.onnx"], capture_output=True, text=True
    )

    assert done.returncode == 1, done.stdout
    assert "FAILED" in done.stdout
