"""A stand-in for the Hugging Face Hub on localhost, as huggingface_hub asks it: pages, redirects, ranges, gates."""

from __future__ import annotations

import hashlib
import http.server
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast
from urllib.parse import parse_qs, urlsplit

COMMIT = "c" * 40
PAGE = 4  # entries of a listing in one answer; the Hub has 1,000
TOKEN = "hf_good"


class Hub(http.server.ThreadingHTTPServer):
    """Serves the files of a folder as the data set ILSVRC/imagenet-1k."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.folder = folder
        self.gated = False
        self.listed: list[str] = []  # files beside those of the folder, which are not there
        self.moods: list[
            tuple[str, int, dict[str, str]]
        ] = []  # (part of a path, status, headers) of next answers
        self.cut_after: list[int] = []  # bytes of the next contents; then whole ones
        self.slow = 0.0  # seconds between 100 KB
        self.asked: list[tuple[str, str, int, str | None]] = []  # method, path, status, Range
        self.watch: Callable[[], None] = lambda: None  # called while contents are sent

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def contents_asked(self) -> list[tuple[str, str | None]]:
        """Name and Range of each content that was asked for."""
        return [
            (path.rpartition("/")[2], wanted)
            for method, path, _, wanted in self.asked
            if method == "GET" and path.startswith("/cdn/")
        ]


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        hub, path = cast(Hub, self.server), urlsplit(self.path).path
        for mood in hub.moods:
            if mood[0] in path:
                hub.moods.remove(mood)
                self._say(mood[1], {"error": "a mood"}, mood[2])
                return
        if path.startswith("/cdn/"):
            self._content(path.removeprefix("/cdn/"))
        elif not (found := re.fullmatch(r"(?:/api)?/datasets/(\w+/[\w.-]+)(?:/(.+))?", path)):
            self._say(404, {"error": "not here"}, {})
        elif found[1] != "ILSVRC/imagenet-1k":
            self._say(401, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        else:
            self._repository(found[2] or "")

    do_HEAD = do_GET

    def _repository(self, what: str) -> None:
        hub = cast(Hub, self.server)
        kind, _, rest = what.partition("/")
        revision, _, name = rest.partition("/")
        if kind in ("revision", "tree", "resolve") and revision not in ("main", COMMIT):
            self._say(404, {"error": "Invalid rev id"}, {"X-Error-Code": "RevisionNotFound"})
        elif kind in ("", "revision"):
            self._say(200, {"id": "ILSVRC/imagenet-1k", "sha": COMMIT, "gated": "auto", "tags": []}, {})
        elif kind == "tree":
            self._tree()
        elif hub.gated and self.headers.get("Authorization") != f"Bearer {TOKEN}":
            known = "Authorization" in self.headers
            self._say(403 if known else 401, {"error": "Access restricted"}, {"X-Error-Code": "GatedRepo"})
        elif kind == "auth-check":
            self._say(200, {}, {})
        else:
            data = (hub.folder / name).read_bytes()
            # To another host, as the Hub does, which must not be given the token.
            headers = {
                "Location": f"http://localhost:{hub.server_port}/cdn/{name}",
                "X-Repo-Commit": COMMIT,
                "X-Linked-Size": str(len(data)),
                "X-Linked-Etag": f'"{hashlib.sha256(data).hexdigest()}"',
            }
            self._say(302, {}, headers)

    def _tree(self) -> None:
        hub, start = cast(Hub, self.server), int(parse_qs(urlsplit(self.path).query).get("cursor", ["0"])[0])
        entries = [{"type": "file", "path": path, "size": 1, "oid": "0" * 40} for path in hub.listed]
        entries += [
            {"type": "file" if path.is_file() else "directory", "path": str(path.relative_to(hub.folder))}
            | {"size": path.stat().st_size if path.is_file() else 0, "oid": "0" * 40}
            for path in sorted(hub.folder.rglob("*"))
        ]
        headers = {}
        if start + PAGE < len(entries):
            address = f"{hub.url}{urlsplit(self.path).path}?recursive=True&cursor={start + PAGE}"
            headers["Link"] = f'<{address}>; rel="next"'
        self._say(200, entries[start : start + PAGE], headers)

    def _content(self, name: str) -> None:
        hub = cast(Hub, self.server)
        assert "Authorization" not in self.headers
        data, wanted = (hub.folder / name).read_bytes(), self.headers.get("Range")
        start = int(wanted.removeprefix("bytes=").partition("-")[0]) if wanted else 0
        self._note(206 if wanted else 200)
        self.send_response(206 if wanted else 200)
        if wanted:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("Content-Length", str(len(data) - start))
        self.end_headers()
        if self.command == "HEAD":
            return
        end = len(data)
        if hub.cut_after:
            end = min(end, start + hub.cut_after.pop(0))
            self.close_connection = True
        for begin in range(start, end, 100_000):
            hub.watch()
            self.wfile.write(data[begin : min(begin + 100_000, end)])
            time.sleep(hub.slow)

    def _say(self, status: int, what: object, headers: dict[str, str]) -> None:
        self._note(status)
        data = json.dumps(what).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **headers,
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def _note(self, status: int) -> None:
        path = urlsplit(self.path).path
        cast(Hub, self.server).asked.append((self.command, path, status, self.headers.get("Range")))

    def handle(self) -> None:
        try:
            super().handle()
        except ConnectionError:  # a client was killed
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[Hub]:
    """A Hub with the files of `folder`."""
    hub = Hub(folder)
    thread = threading.Thread(target=hub.serve_forever)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        thread.join()
        hub.server_close()
