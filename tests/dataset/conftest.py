"""A source of many images, and what becomes of it when nothing goes wrong."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.dataset.published import jpeg
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
