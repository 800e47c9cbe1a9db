"""A run folder as a trainer leaves it, and where it may be mirrored."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from tests.dataset.conftest import Bucket, bucket, s3_endpoint  # noqa: F401
from trainer.files import point
from trainer.mirror import Mirror, open_store
from trainer.mirror._store import Store


def write_checkpoint(run: Path, step: int, *, content: bytes = b"", key: str = "k1") -> Path:
    """What training leaves at a step: a checkpoint, and a journal that knows of it."""
    folder = run / "checkpoints"
    folder.mkdir(parents=True, exist_ok=True)
    content = content or b"state %d " % step * 5000
    path = folder / f"step-{step:08d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    path.write_bytes(content)
    journal = run / "journal.jsonl"
    if not journal.exists():
        journal.write_text(json.dumps({"kind": "start", "time": 1, "key": key}) + "\n")
        if not (run / "recipe.json").exists():
            (run / "recipe.json").write_text("{}\n")
    with journal.open("a") as file:
        file.write(json.dumps({"kind": "metrics", "time": step, "step": step, "values": {}}) + "\n")
    return path


def with_best(run: Path, checkpoint: Path) -> None:
    point(run / "checkpoints" / "best.pt", checkpoint.name)


def files_of(run: Path) -> dict[str, bytes]:
    """The content of all files of a run folder but those of the mirror and of locks."""
    return {
        path.relative_to(run).as_posix(): path.read_bytes()
        for path in sorted(run.rglob("*"))
        if path.is_file() and path.suffix not in (".lock", ".log") and path.name != "mirror.json"
    }


@pytest.fixture(params=["s3", "folder"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where runs are mirrored: on an S3 server, and on a disk."""
    if request.param == "s3":
        return f"s3://{request.getfixturevalue('bucket').name}/runs"
    return str(request.getfixturevalue("disk"))


@pytest.fixture
def disk(tmp_path: Path) -> str:
    """The address of a disk that machines share."""
    (tmp_path / "shared").mkdir()
    return (tmp_path / "shared").as_uri()


@pytest.fixture
def store(url: str) -> Store:
    return open_store(url, "run")


class Machine:
    """A machine with a disk of its own, that may train the run `run`."""

    def __init__(self, root: Path, url: str, *, lease_seconds: float = 60) -> None:
        root.mkdir(exist_ok=True)
        self.run = root / "run"
        self.store = open_store(url, "run")
        self.mirror = Mirror(self.run, self.store, lease_seconds=lease_seconds)
