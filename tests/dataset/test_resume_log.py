"""Cut off at any moment, or the disk full: what was written is known, and nothing is written twice."""

from __future__ import annotations

import subprocess
import zlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from tests.dataset.conftest import COUNT, many, small_tmpfs
from trainer.dataset import ImageRecord, Resize, Skipped, prepare
from trainer.dataset._resume_log import IDENTITY, LOG, ResumeLog
from trainer.errors import DataError


def test_what_was_written_before_a_break_is_not_written_again(tmp_path: Path, undisturbed: str) -> None:
    with pytest.raises(DataError, match="damaged here"):
        prepare(many(broken_at=300), tmp_path / "out", workers=1)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.JPEG")}
    assert written

    again = prepare(many(), tmp_path / "out")

    assert again.metadata["digest"] == undisturbed
    assert again.resumed == len(written)
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_a_torn_log_damaged_images_and_strays_are_mended(tmp_path: Path, undisturbed: str) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError):
        prepare(many(broken_at=300), out)
    with (out / ".preparing" / LOG).open("a") as log:
        log.write("train\tc0\ttrain/c0/9999.JP")
    written = sorted(out.rglob("*.JPEG"))
    written[0].write_bytes(bytes(written[0].stat().st_size))  # as a power cut may leave it
    written[1].unlink()
    (out / "train" / "c0" / "half.JPEG").write_bytes(b"\xff\xd8\xff")

    again = prepare(many(), out)

    assert again.metadata["digest"] == undisturbed
    assert again.resumed == len(written) - 2
    assert not (out / "train" / "c0" / "half.JPEG").exists()
    assert sum(1 for _ in out.rglob("*.JPEG")) == COUNT


def test_other_options_do_not_go_on_with_a_begun_preparation(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        prepare(many(broken_at=300), tmp_path / "out")

    with pytest.raises(DataError, match=r"was begun in .* and has not ended"):
        prepare(many(), tmp_path / "out", resize=Resize(32))


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MB, in which a file takes 4 KB: too small for the images."""
    with small_tmpfs(tmp_path / "disk", megabytes=1) as disk:
        yield disk


def test_a_disk_that_fills_up_loses_nothing(small_disk: Path, undisturbed: str) -> None:
    source = replace(many(), bytes=0)  # so that it begins
    with pytest.raises(DataError, match="is full; nothing is lost"):
        prepare(source, small_disk / "out", workers=1)
    assert 100 < sum(1 for _ in small_disk.rglob("*.JPEG")) < COUNT

    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    again = prepare(source, small_disk / "out")

    assert again.metadata["digest"] == undisturbed
    assert again.resumed >= 64


def test_what_was_written_is_logged_even_on_a_disk_without_a_byte_left(
    small_disk: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add = ResumeLog.add

    def add_late(log: ResumeLog, written: Iterable[ImageRecord | Skipped]) -> None:
        with suppress(OSError), (small_disk / "filler").open("ab", buffering=0) as filler:
            while filler.write(bytes(1000)):
                pass
        add(log, written)

    monkeypatch.setattr(ResumeLog, "add", add_late)
    with pytest.raises(DataError, match="is full; nothing is lost"):
        prepare(replace(many(), bytes=0), small_disk / "out", workers=1)
    monkeypatch.undo()
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)

    assert prepare(replace(many(), bytes=0), small_disk / "out").resumed >= 64


@pytest.mark.parametrize(
    "damage", [b"train\tc0\n", b"#durable\tx\n", b"-\n", b"\xff\xfe\n", b"\0" * 99 + b"\n"]
)
def test_a_log_with_a_damaged_line_counts_up_to_it(tmp_path: Path, undisturbed: str, damage: bytes) -> None:
    out = tmp_path / "out"
    with pytest.raises(DataError):
        prepare(many(broken_at=300), out)
    log = out / ".preparing" / LOG
    lines = log.read_bytes().splitlines(keepends=True)
    log.write_bytes(b"".join([*lines[:50], damage, *lines[50:]]))

    again = prepare(many(), out)

    assert again.resumed == 50
    assert again.metadata["digest"] == undisturbed


def test_a_strangers_log_removes_no_file_outside(tmp_path: Path) -> None:
    (tmp_path / "letter").write_bytes(b"1")
    with pytest.raises(DataError):
        prepare(many(broken_at=300), tmp_path / "out")
    with (tmp_path / "out" / ".preparing" / LOG).open("a") as log:
        log.write(f"train\tc0\ttrain/../../letter\t1\t1\t1\t{zlib.crc32(b'1')}\n#durable\t{10**9}\n")

    prepare(many(), tmp_path / "out")
    assert (tmp_path / "letter").exists()


@pytest.mark.parametrize("identity", ["", "null", "{}", "[" * 100_000])
def test_a_preparation_whose_identity_is_damaged_begins_anew(
    tmp_path: Path, undisturbed: str, identity: str
) -> None:
    with pytest.raises(DataError):
        prepare(many(broken_at=300), tmp_path / "out")
    (tmp_path / "out" / ".preparing" / IDENTITY).write_text(identity)

    again = prepare(many(), tmp_path / "out")

    assert (again.resumed, again.metadata["digest"]) == (0, undisturbed)
