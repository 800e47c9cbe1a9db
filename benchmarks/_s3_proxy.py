"""What stands between a trainer and S3: it answers errors, is slow, cuts uploads, or does not answer at all."""

from __future__ import annotations

import http.client
import http.server
import json
import os
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast
from urllib.parse import urlsplit

BLOCK = 2**16


class Proxy(http.server.ThreadingHTTPServer):
    """Hands requests on to the S3 server at `upstream`, in the manner that it is told."""

    daemon_threads = True

    def __init__(self, upstream: str) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = urlsplit(upstream).netloc
        self.status = 0  # of all answers; 0: the server's own
        self.silent = False  # whether nothing is answered
        self.slow = 0.0  # seconds for each 64 kB of an upload, and before each answer
        self.cut_after = 0  # bytes of an upload after which its connection is cut; 0: never
        self.ignores_conditions = False  # as S3-like servers that know none
        self.puts: list[tuple[str, int]] = []  # key and bytes of each upload that was whole
        self.uploading = 0  # uploads of files that are under way
        self.asked = 0  # requests

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://127.0.0.1:{self.server_port}"

    def well(self) -> None:
        """As a server should be."""
        self.status, self.silent, self.slow, self.cut_after = 0, False, 0.0, 0
        self.ignores_conditions = False

    def handle_error(self, *_: object) -> None:
        """A client that goes away is no error here."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle_expect_100(self) -> bool:
        """Hold the answer back."""
        return True  # said when the body is wanted

    def _any(self) -> None:
        server = cast(Proxy, self.server)
        server.asked += 1
        while server.silent:
            time.sleep(0.05)
        if server.status:
            self.close_connection = True
            self.send_response(server.status)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.headers.get("Expect"):
            self.send_response_only(100)
            self.end_headers()
        body, size = bytearray(), int(self.headers.get("Content-Length") or 0)
        is_file = self.command == "PUT" and "/files/" in self.path
        server.uploading += is_file
        try:
            while len(body) < size:
                time.sleep(server.slow)
                part = self.rfile.read(min(BLOCK, size - len(body)))
                if not part or (is_file and server.cut_after and len(body) > server.cut_after):
                    self.close_connection = True
                    return
                body += part
            time.sleep(server.slow)
            if is_file:
                server.puts.append((self.path, size))
            self._hand_on(server.upstream, bytes(body))
        finally:
            server.uploading -= is_file

    def _hand_on(self, upstream: str, body: bytes) -> None:
        connection = http.client.HTTPConnection(upstream, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
        if cast(Proxy, self.server).ignores_conditions and self.command == "PUT":
            headers = {name: value for name, value in headers.items() if not name.lower().startswith("if-")}
        connection.request(self.command, self.path, body, headers)
        answer = connection.getresponse()
        content = answer.read()
        self.send_response_only(answer.status)
        for name, value in answer.getheaders():
            if name.lower() not in ("transfer-encoding", "connection"):
                self.send_header(name, value)
        if answer.getheader("Content-Length") is None:
            self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        connection.close()

    do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = _any

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def in_front_of(upstream: str) -> Iterator[Proxy]:
    """A proxy while the context lasts."""
    server = Proxy(upstream)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.well()
        server.shutdown()
        thread.join()
        server.server_close()


def main() -> None:
    """Be an S3 server, of moto, behind a proxy: print its address, and take manners as JSON, a line each."""
    from moto.server import ThreadedMotoServer

    os.nice(10)  # a real one is on another machine
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    with in_front_of(f"http://{host}:{port}") as proxy:
        print(proxy.url, flush=True)
        for line in sys.stdin:
            proxy.well()
            for name, value in json.loads(line).items():
                setattr(proxy, name, value)
            print("ok", flush=True)
    moto.stop()


if __name__ == "__main__":
    main()
