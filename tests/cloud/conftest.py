"""An account at AWS's stand-in, and `trainer cloud` there."""

from __future__ import annotations

import functools
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from tests.cloud.stand_in import CPU_AMI, GPU_AMI, StandIn
from trainer.cli import main
from trainer.cloud import _aws, _group

Cloud = Callable[..., tuple[int, str]]
Clients = Callable[[str], Any]
ROOT = Path(__file__).parents[2]
UP = [
    "up",
    "--instance",
    "g5.2xlarge",
    "--repository",
    "https://example.org/me/trainer",
    "--revision",
    "abc123",
]


@pytest.fixture(scope="session")
def stand_in() -> Iterator[tuple[StandIn, str]]:
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        def log_request(self, *_: Any) -> None:
            pass

    front = StandIn(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, front, threaded=True, request_handler=Quiet)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield front, f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="session")
def public(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The address that stands for https://example.org/, where anybody may clone."""
    folder = tmp_path_factory.mktemp("example.org")
    for name in ("me/trainer", "x"):
        subprocess.run(["git", "init", "--quiet", "--bare", folder / name], check=True)
    return f"file://{folder}/"


@pytest.fixture
def aws(
    stand_in: tuple[StandIn, str], public: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> StandIn:
    """An account with a bucket alone, which the environment leads to; its home has a public SSH key."""
    from moto.backends import get_backend
    from moto.ec2.models.amis import Ami

    front, address = stand_in
    monkeypatch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")  # they take longest to empty
    for service in ("ec2", "iam", "ssm", "s3"):
        for account in get_backend(service).values():
            for backend in account.values():
                backend.reset()
    get_backend("s3")["123456789012"]["aws"].create_bucket("mine", "us-east-1")
    backend = get_backend("ec2")["123456789012"]["us-east-1"]
    for image in (GPU_AMI, CPU_AMI):
        backend.amis[image] = Ami(backend, image, name=image, root_device_name="/dev/sda1")
    front.reset()
    for name, value in {
        "AWS_ENDPOINT_URL": address,
        "AWS_ACCESS_KEY_ID": "AKIAIOSFODNN7EXAMPLE",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": str(tmp_path / "none"),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "none"),
        "HOME": str(tmp_path),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{public}.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://example.org/",
    }.items():
        monkeypatch.setenv(name, value)
    for name in ("AWS_PROFILE", "AWS_REGION", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh" / "id_ed25519.pub").write_text(
        "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOMqqnkVzrm0SdG6UOoqKLsabgH5C9okWi0dh2l9GKJl me@home\n"
    )
    monkeypatch.setattr(_aws, "POLL", 0.01)
    monkeypatch.setattr(_group, "ADDRESS_SERVICE", f"{address}/address")
    return front


@pytest.fixture(scope="session")
def clients(stand_in: tuple[StandIn, str]) -> Clients:
    """Clients of our own, behind the program's back."""
    session = boto3.Session("AKIAIOSFODNN7EXAMPLE", "x", region_name="us-east-1")
    return functools.cache(lambda service: session.client(service, endpoint_url=stand_in[1]))


@pytest.fixture
def ec2(aws: StandIn, clients: Clients) -> Any:
    """EC2 as it is."""
    return clients("ec2")


@pytest.fixture
def cloud(aws: StandIn, capsys: pytest.CaptureFixture[str]) -> Cloud:
    """`trainer cloud` with these arguments: its exit code, and what it said."""

    def call(step: str, *arguments: str, recipe: str = "digits") -> tuple[int, str]:
        code = main(["cloud", step, *([recipe] if recipe and step == "up" else []), *arguments])
        said = capsys.readouterr()
        assert "Traceback" not in said.err
        return code, said.out + said.err

    return call


def instances(ec2: Any) -> list[dict[str, Any]]:
    """The machines that are there."""
    found = ec2.describe_instances()["Reservations"]
    return [one for group in found for one in group["Instances"] if one["State"]["Name"] != "terminated"]


def forget() -> None:
    """As a new process, which reads the settings of AWS anew."""
    _aws._session.cache_clear()
    _aws._client.cache_clear()


def kill_until_done(aws: StandIn, call: Callable[[], int]) -> list[str]:
    """Give a command again and again, killed each time after a change that it did not come to before; these changes."""
    changes: list[str] = []
    for _ in range(20):
        aws.begin(changes)
        if call() == 0:
            aws.begin(None)
            return changes
    raise AssertionError(f"it never ends: {changes}")
