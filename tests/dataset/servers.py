"""A web server of files with all the manners that such servers have."""

from __future__ import annotations

import http.server
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast
from urllib.parse import unquote, urlsplit


class FileServer(http.server.ThreadingHTTPServer):
    """Serves the files of a folder, and cuts, turns away, redirects and slows down as told."""

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.ranges = True
        self.tells_length = True
        self.version = '"1"'
        self.statuses: list[int] = []  # of the first answers
        self.cut_every = 0  # bytes after which each connection is cut; 0: never
        self.slow = 0.0  # seconds between 64 KB
        self.sent = 0  # bytes, all together
        self.asked: list[str | None] = []  # the Range of each request

    def url(self, name: str, *, secret: str = "") -> str:
        return f"http://127.0.0.1:{self.server_port}/{name}" + (f"?X-Signature={secret}" if secret else "")

    def handle_error(self, *_: object) -> None:
        """A client that goes away is no error here."""


class _Handler(http.server.BaseHTTPRequestHandler):
    def do_HEAD(self) -> None:
        self.send_error(cast(FileServer, self.server).statuses.pop(0))

    def do_GET(self) -> None:
        server = cast(FileServer, self.server)
        wanted = self.headers.get("Range")
        server.asked.append(wanted)
        if server.statuses:
            self.send_error(server.statuses.pop(0))
            return
        path = unquote(urlsplit(self.path).path).lstrip("/")
        if path.startswith("moved/"):
            self.send_response(302)
            self.send_header("Location", "/" + path.removeprefix("moved/"))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if not (server.folder / path).is_file():
            self.send_error(404)
            return
        content = (server.folder / path).read_bytes()
        begin, end = 0, len(content)
        found = re.fullmatch(r"bytes=(\d+)-(\d*)", wanted or "")
        if server.ranges and found and self.headers.get("If-Range") in (None, server.version):
            begin, end = int(found[1]), min(int(found[2] or end) + 1, end)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{end - 1}/{len(content)}")
        else:
            self.send_response(200)
        if server.tells_length:
            self.send_header("Content-Length", str(end - begin))
        self.send_header("ETag", server.version)
        self.end_headers()
        data = memoryview(content)[begin:end]
        if server.cut_every:
            data = data[: server.cut_every]
        for start in range(0, len(data), 2**16):
            self.wfile.write(data[start : start + 2**16])
            server.sent += len(data[start : start + 2**16])
            time.sleep(server.slow)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path) -> Iterator[FileServer]:
    """Serve a folder while the context lasts."""
    server = FileServer(folder)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()
