"""A source of many images, and what becomes of it when nothing goes wrong."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.dataset.published import jpeg
from tests.dataset.servers import FileServer, serving
from trainer.dataset import SPLITS, Source, SourceImage, prepare
from trainer.errors import DataError

COUNT = 400


def many(out_of: int = COUNT, *, slow: float = 0.0, broken_at: int | None = None) -> Source:
    """A source of many images, `slow` seconds each, that may break off."""

    def images() -> Iterator[SourceImage]:
        for index in range(out_of):
            if index == broken_at:
                raise DataError("the archive is damaged here")
            split, class_id = SPLITS[index % 5 == 0], f"c{index % 3}"
            data = jpeg(index)

            def read(data: bytes = data) -> bytes:
                time.sleep(slow)
                return data

            yield SourceImage(split, class_id, f"{split}/{class_id}/{index:04d}.JPEG", len(data), read)

    return Source(name="many", images=images, bytes=COUNT * 1500)


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Digest of the data set `many` when nothing goes wrong."""
    return str(prepare(many(), tmp_path_factory.mktemp("undisturbed") / "out").metadata["digest"])


@contextmanager
def small_tmpfs(disk: Path, *, megabytes: int) -> Iterator[Path]:
    """A file system of that size, mounted on the new folder `disk`; its files take 4 KB at least."""
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", disk]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("only root can mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


@pytest.fixture
def web(tmp_path: Path) -> Iterator[FileServer]:
    """A web server of the folder `www`."""
    (tmp_path / "www").mkdir()
    with serving(tmp_path / "www") as server:
        yield server


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """Address of an S3 server on this machine."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


class Bucket:
    """A bucket on the S3 server."""

    def __init__(self, endpoint: str, name: str) -> None:
        import boto3

        self.name = name
        self.client: Any = boto3.client("s3", endpoint_url=endpoint)
        self.client.create_bucket(Bucket=name)

    def put(self, path: Path, key: str = "") -> str:
        """Upload a file, or all files of a folder; its address."""
        key = key or path.name
        if path.is_dir():
            for one in path.rglob("*"):
                if one.is_file():
                    self.put(one, f"{key}/{one.relative_to(path)}")
        else:
            self.client.put_object(Bucket=self.name, Key=key, Body=path.read_bytes())
        return f"s3://{self.name}/{key}"


@pytest.fixture
def bucket(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """A new bucket, on the S3 server that AWS_ENDPOINT_URL names."""
    import s3fs

    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "a secret of mine")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    s3fs.S3FileSystem.clear_instance_cache()
    yield Bucket(s3_endpoint, f"test-{os.urandom(6).hex()}")
    s3fs.S3FileSystem.clear_instance_cache()
