"""Downloads that are cut off, from servers of every kind."""

from __future__ import annotations

import http.server
import os
import re
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from tests.dataset import published
from trainer.dataset import fetch, open_dataset
from trainer.errors import DataError

CONTENT = os.urandom(300_000)


class Server(http.server.ThreadingHTTPServer):
    """Serves one file, with ranges or without, and cuts connections as told."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content, self.ranges, self.etag = CONTENT, True, '"1"'
        self.cut_after: list[int] = []  # bytes of each answer; then whole ones
        self.statuses: list[int] = []  # of the first answers
        self.replace_after_cut = False  # serve another version of the file after the first cut
        self.slow = 0.0  # seconds between 10 KB
        self.asked: list[str | None] = []  # the Range of each request

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/sets/imagenette2-320.tgz?token=1"


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        server = cast(Server, self.server)
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        begin = 0
        found = re.fullmatch(r"bytes=(\d+)-", wanted or "")
        if server.ranges and found and self.headers.get("If-Range") == server.etag:
            begin = int(found[1])
            if begin >= len(server.content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header(
                "Content-Range", f"bytes {begin}-{len(server.content) - 1}/{len(server.content)}"
            )
        else:
            self.send_response(200)
        data = server.content[begin:]
        self.send_header("Content-Length", str(len(data)))
        self.send_header("ETag", server.etag)
        self.end_headers()
        if server.cut_after:
            data = data[: server.cut_after.pop(0)]
            if server.replace_after_cut:
                server.content, server.etag = server.content[::-1], '"2"'
        for start in range(0, len(data), 10_000):
            self.wfile.write(data[start : start + 10_000])
            time.sleep(server.slow)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_download_goes_on_where_the_connection_was_cut(server: Server, tmp_path: Path) -> None:
    server.cut_after = [100_000, 50_000]
    seen: list[tuple[int, int]] = []

    path = fetch(server.url, tmp_path, progress=lambda done, total: seen.append((done, total)), backoff=0)

    assert path.read_bytes() == CONTENT
    assert path.name == "imagenette2-320.tgz"
    assert server.asked == [None, "bytes=100000-", "bytes=150000-"]
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert [path.name for path in tmp_path.iterdir()] == ["imagenette2-320.tgz"]


def test_what_is_there_is_not_downloaded_again(server: Server, tmp_path: Path) -> None:
    fetch(server.url, tmp_path)
    fetch(server.url, tmp_path)

    assert len(server.asked) == 1


def test_a_server_without_ranges_starts_anew(server: Server, tmp_path: Path) -> None:
    server.ranges, server.cut_after = False, [100_000]

    assert fetch(server.url, tmp_path, backoff=0).read_bytes() == CONTENT


def test_a_file_that_was_replaced_in_between_is_not_glued_to_the_old_one(
    server: Server, tmp_path: Path
) -> None:
    server.cut_after, server.replace_after_cut = [100_000], True

    assert fetch(server.url, tmp_path, backoff=0).read_bytes() == CONTENT[::-1]


def test_a_busy_server_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.statuses = [503, 429, 500]

    assert fetch(server.url, tmp_path, backoff=0).read_bytes() == CONTENT


def test_what_will_never_come_is_said_at_once(server: Server, tmp_path: Path) -> None:
    server.statuses = [404]

    with pytest.raises(DataError, match="the server answers 404 Not Found"):
        fetch(server.url, tmp_path, backoff=0)
    assert len(server.asked) == 1


def test_a_server_that_always_cuts_is_given_up_and_what_came_is_kept(server: Server, tmp_path: Path) -> None:
    server.cut_after = [100_000, *[0] * 20]

    with pytest.raises(DataError, match="100,000 bytes are kept"):
        fetch(server.url, tmp_path, backoff=0)
    server.cut_after = []
    assert fetch(server.url, tmp_path).read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=100000-"


def test_no_server_is_said_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no connection"):
        fetch("http://127.0.0.1:9/x.tgz", tmp_path, backoff=0)


@pytest.mark.parametrize("source", ["nowhere.tar", "nonsense://bucket/x.tar", "."])
def test_what_is_neither_file_nor_address_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(DataError, match=re.escape(source)):
        fetch(source, tmp_path / "downloads")


@pytest.mark.slow
def test_a_killed_prepare_goes_on_with_its_download(server: Server, tmp_path: Path) -> None:
    server.content, server.slow = published.fastai(tmp_path).read_bytes(), 0.1
    command = [sys.executable, "-m", "trainer", "prepare", "imagenette", server.url, "--size", "320"]
    command += ["--no-md5", "--out", str(tmp_path / "out"), "--downloads", str(tmp_path / "kept")]
    part = tmp_path / "kept" / "imagenette2-320.tgz.part"
    process = subprocess.Popen(command)
    while not (part.exists() and part.stat().st_size):
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    server.slow = 0.0

    subprocess.run(command, check=True, capture_output=True)

    assert server.asked[0] is None
    assert server.asked[1] is not None
    assert len(open_dataset(tmp_path / "out").train) == 12
    assert not (tmp_path / "out" / ".preparing").exists()


MAGNET = "magnet:?xt=urn:btih:943977d8c96892d24237638335e481f3ccd54cfb"


def test_a_torrent_without_aria2c_prints_the_command_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(DataError, match=r"apt install aria2.*aria2c --dir=.* '" + re.escape(MAGNET)):
        fetch(MAGNET, tmp_path)


def test_a_torrent_is_handed_to_aria2c(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A stand-in for aria2c: there are no peers here. It is called as aria2's manual says."""
    program = tmp_path / "bin" / "aria2c"
    program.parent.mkdir()
    program.write_text(
        '#!/bin/sh\necho "$@" >&2\ndir=${1#--dir=}; mkdir -p "$dir/x"; echo > "$dir/x/a.tar.gz"\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}:{os.environ['PATH']}")

    assert fetch(MAGNET, tmp_path / "got", endings=(".zip", ".tar.gz")) == tmp_path / "got" / "x" / "a.tar.gz"
