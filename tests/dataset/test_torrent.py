"""Torrents by the real aria2c, from a web server as seed: there are no peers here."""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.dataset import published
from tests.dataset.servers import FileServer
from trainer.dataset import fetch, open_dataset

pytestmark = pytest.mark.skipif(not shutil.which("aria2c"), reason="aria2c is not installed")

PIECE = 2**15  # bytes


def bencoded(value: Any) -> bytes:
    if isinstance(value, int):
        return b"i%de" % value
    if isinstance(value, str):
        return bencoded(value.encode())
    if isinstance(value, bytes):
        return b"%d:%s" % (len(value), value)
    if isinstance(value, list):
        return b"l" + b"".join(map(bencoded, value)) + b"e"
    return b"d" + b"".join(bencoded(key) + bencoded(one) for key, one in sorted(value.items())) + b"e"


def torrent_of(archive: Path, web: FileServer) -> Path:
    """A torrent of a file that a web server has."""
    data = archive.read_bytes()
    pieces = [hashlib.sha1(data[start : start + PIECE]).digest() for start in range(0, len(data), PIECE)]
    info = {"name": archive.name, "length": len(data), "piece length": PIECE, "pieces": b"".join(pieces)}
    path = archive.with_name("archive.torrent")
    path.write_bytes(bencoded({"info": info, "url-list": [web.url(archive.name)]}))
    return path


@pytest.mark.slow
def test_a_killed_download_goes_on_with_the_pieces_that_are_there(web: FileServer, tmp_path: Path) -> None:
    archive = web.folder / "x.zip"
    archive.write_bytes(os.urandom(60 * PIECE))
    torrent, got = torrent_of(archive, web), tmp_path / "got"
    web.slow = 0.05
    code = f"from pathlib import Path; from trainer.dataset import fetch; fetch({str(torrent)!r}, Path({str(got)!r}))"
    process = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.DEVNULL, start_new_session=True
    )
    while web.sent < 20 * PIECE:
        assert process.poll() is None
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    web.sent, web.slow = 0, 0.0

    path = fetch(str(torrent), got, endings=(".zip",))

    assert isinstance(path, Path)
    assert path.read_bytes() == archive.read_bytes()
    assert web.sent < 50 * PIECE


def test_a_damaged_piece_is_downloaded_again(web: FileServer, tmp_path: Path) -> None:
    archive = web.folder / "x.zip"
    archive.write_bytes(os.urandom(20 * PIECE))
    (tmp_path / "got").mkdir()
    damaged = bytearray(archive.read_bytes())
    damaged[5 * PIECE] ^= 1
    (tmp_path / "got" / "x.zip").write_bytes(damaged)

    path = fetch(str(torrent_of(archive, web)), tmp_path / "got", endings=(".zip",))

    assert isinstance(path, Path)
    assert path.read_bytes() == archive.read_bytes()
    assert web.sent < 15 * PIECE


@pytest.mark.slow
def test_a_data_set_is_prepared_from_a_torrent(web: FileServer, tmp_path: Path) -> None:
    torrent = torrent_of(published.kaggle_tar(web.folder), web)
    command = [
        sys.executable,
        "-m",
        "trainer",
        "prepare",
        "kaggle",
        str(torrent),
        "--out",
        str(tmp_path / "out"),
    ]

    subprocess.run(command, check=True, capture_output=True)

    assert len(open_dataset(tmp_path / "out").train) == 12
    assert not (tmp_path / "out" / ".preparing").exists()
