"""Files on disks that lack a service: training needs none of them."""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import ALONE
from tests.test_checkpoint import RECIPE, State, steps
from trainer import files
from trainer.checkpoint import KEEP, Checkpoints, load_state
from trainer.errors import ConfigError
from trainer.files import file_lock, follow, point, sync_folder, write_text

HELD = ConfigError("held")
CODES = [errno.ENOSYS, errno.EPERM, errno.EOPNOTSUPP, errno.EINVAL]


def lacks(monkeypatch: pytest.MonkeyPatch, what: str, code: int) -> None:
    """Take a service away, with the answer that Linux gives."""

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(code, os.strerror(code))

    if what == "links":
        monkeypatch.setattr(os, "symlink", refuse)
    elif what == "locks":
        monkeypatch.setattr(fcntl, "flock", refuse)
        monkeypatch.setattr(files, "_warned", set())
    else:
        flush = os.fsync
        monkeypatch.setattr(
            os, "fsync", lambda fd: refuse() if stat.S_ISDIR(os.fstat(fd).st_mode) else flush(fd)
        )


@pytest.mark.parametrize("code", CODES)
def test_without_links_checkpoints_count_and_old_ones_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    lacks(monkeypatch, "links", code)
    with Checkpoints(tmp_path, ALONE, recipe=RECIPE, dataset_digest="mine") as checkpoints:
        for step in range(1, 9):
            checkpoints.save(step, {"state": State(step)}, best=2 if step > 2 else step)
            checkpoints.wait()

    assert steps(tmp_path) == [8, 7, 6, 2]
    assert len(steps(tmp_path)) == KEEP + 1
    assert load_state(tmp_path / "best.pt", "state")["value"][0] == 2
    assert caplog.messages == []


def test_what_cannot_be_tidied_up_costs_no_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    lacks(monkeypatch, "links", errno.EIO)
    with Checkpoints(tmp_path, ALONE, recipe=RECIPE, dataset_digest="mine") as checkpoints:
        for step in range(1, 9):
            checkpoints.save(step, {"state": State(step)}, best=1)
            checkpoints.wait()

    assert steps(tmp_path) == [8, 7, 6, 1]
    assert "cannot be tidied up: Input/output error" in caplog.text


@pytest.mark.parametrize("code", CODES)
def test_without_the_flush_of_a_folder_files_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    lacks(monkeypatch, "flush", code)
    write_text(tmp_path / "name", "content")

    assert (tmp_path / "name").read_text() == "content"


def test_a_disk_that_is_broken_is_not_one_that_lacks_a_service(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacks(monkeypatch, "flush", errno.EIO)

    with pytest.raises(OSError, match="Input/output"):
        sync_folder(tmp_path)


HOLD = """
import sys; from pathlib import Path; import tests.test_files as t
with t.file_lock(Path(sys.argv[1]), timeout=0, otherwise=t.HELD):
    print("mine", flush=True); sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOLCK, errno.EINVAL])
def test_without_locks_processes_of_one_machine_still_exclude_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, code: int
) -> None:
    """Also after a kill, which a file in place of the lock would outlive."""
    lacks(monkeypatch, "locks", code)
    without = HOLD.replace("with t.", f"t.lacks(t.pytest.MonkeyPatch(), 'locks', {code})\nwith t.")
    with subprocess.Popen(
        [sys.executable, "-c", without, tmp_path / "lock"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as other:
        assert other.stdout.readline() == b"mine\n"
        with (
            pytest.raises(ConfigError, match="held"),
            file_lock(tmp_path / "lock", timeout=0.1, otherwise=HELD),
        ):
            pass
        other.kill()

    for _ in range(2):
        with file_lock(tmp_path / "lock", timeout=5, otherwise=HELD):
            pass
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "has no locks" in caplog.text


@given(st.binary(max_size=300))
def test_only_a_name_beside_it_is_followed(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    folder = tmp_path_factory.mktemp("folder")
    (folder / "file").write_bytes(content)

    assert follow(folder / "file") == folder / "file"


def test_a_pointer_is_followed_and_moved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("one", "two"):
        (tmp_path / name).write_text("")
        point(tmp_path / "best", name)
        assert follow(tmp_path / "best") == tmp_path / name

    lacks(monkeypatch, "links", errno.EPERM)
    point(tmp_path / "best", "one")
    assert follow(tmp_path / "best") == tmp_path / "one"
    assert not (tmp_path / "best").is_symlink()


@pytest.mark.parametrize("name", ["/dev/zero", "/proc/kmsg", "/proc/self/pagemap", "pipe", "folder"])
def test_nobody_waits_for_a_file_that_never_ends(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "folder").mkdir()
    content = b""  # as a file of /proc says that it has

    with pytest.raises((OSError, ValueError)):
        files.read_json(tmp_path / name)

    with suppress(OSError):
        content = files.read_regular(tmp_path / name)
    assert content == b""


def test_a_regular_file_is_read_whole_or_up_to_the_most(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"0123456789")

    assert files.read_regular(tmp_path / "file") == b"0123456789"
    assert files.read_regular(tmp_path / "file", most=3) == b"012"
