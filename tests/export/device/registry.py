"""The three routes of an MLflow server that `pull` asks, with the faults that a real one has on bad days only."""

from __future__ import annotations

import hashlib
import json
import re
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

API = "/api/2.0/mlflow"


@dataclass
class Registry:
    """What the server has, and how it misbehaves."""

    uri: str = ""
    versions: dict[int, Path] = field(default_factory=dict)  # bundles
    aliases: dict[str, int] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)  # instead of the right ones
    login: str = ""  # the header Authorization that is asked for
    status: int = 0  # instead of 200, of every answer
    page: bytes = b""  # instead of every answer
    cut: int = 0  # bytes after which a file's connection breaks, once for each byte that it began at
    ranges: bool = True
    changed: str = ""  # a file whose last byte is another
    pause: float = 0.0  # seconds before each answer
    asked: list[tuple[str, str]] = field(default_factory=list)  # paths, with their Range

    def publish(self, version: int, bundle: Path, alias: str = "champion") -> None:
        """Register a bundle."""
        self.versions[version] = bundle
        self.aliases[alias] = version

    def answer(self, path: str, query: dict[str, list[str]]) -> tuple[int, bytes]:
        """Status and content."""
        if path == f"{API}/registered-models/alias":
            number = self.aliases.get(query["alias"][0])
            if query["name"] != ["a model"] or number is None:
                error = {
                    "error_code": "INVALID_PARAMETER_VALUE",
                    "message": 'Registered model alias "x" not found.',
                }
                return 400, json.dumps(error).encode()
            sums = (self.versions[number] / "SHA256SUMS").read_bytes()
            tags = {
                "bundle": f"1/r-{number}/artifacts/bundle",
                "bundle_sha256": hashlib.sha256(sums).hexdigest(),
            }
            described = {
                "name": "a model",
                "version": str(number),
                # Whoever looks for the tags by sed finds these.
                "description": 'it has "key": "bundle", "value": "../../etc" and {"version": "99"} \\ "',
                "aliases": ["champion", "x"],
                "tags": [
                    {"key": key, "value": value} for key, value in {"a": "", **tags, **self.tags}.items()
                ],
                "last": {"version": "98", "tags": [{"key": "bundle", "value": "wrong"}]},
            }
            return 200, json.dumps({"model_version": described}, indent=2).encode()
        named = re.fullmatch(rf"{API}-artifacts/artifacts/1/r-(\d+)/artifacts/bundle/(.+)", path)
        file = named and self.versions[int(named[1])] / named[2]
        if not file or not file.is_file():
            return 404, b'{"error_code": "RESOURCE_DOES_NOT_EXIST"}'
        content = file.read_bytes()
        if named[2] == self.changed:
            content = content[:-1] + bytes([content[-1] ^ 1])
        return 200, content


@contextmanager
def serve(registry: Registry, tls: ssl.SSLContext | None = None) -> Iterator[Registry]:
    """The registry at an address on loopback."""
    breaks: set[tuple[str, int]] = set()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            asked = self.headers.get("Range") or ""
            registry.asked.append((url.path, asked))
            if registry.pause:
                threading.Event().wait(registry.pause)
            status, content = registry.answer(url.path, parse_qs(url.query))
            if registry.login and self.headers.get("Authorization") != registry.login:
                status, content = 401, b"You are not authenticated."
            status, content = registry.status or status, registry.page or content
            start, whole = 0, len(content)
            if asked and registry.ranges and status == 200:
                start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
                status, content = (206, content[start:]) if start < whole else (416, b"")
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            if 300 <= status < 400:
                self.send_header("Location", "http://elsewhere.example/")
            if status == 206:
                self.send_header("Content-Range", f"bytes {start}-{whole - 1}/{whole}")
            self.end_headers()
            cut = registry.cut if "artifacts/" in url.path and (url.path, start) not in breaks else 0
            if cut and cut < len(content):
                breaks.add((url.path, start))
                content = content[:cut]
                self.close_connection = True
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if tls is not None:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    registry.uri = f"{'https' if tls else 'http'}://127.0.0.1:{server.server_port}"
    try:
        yield registry
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
