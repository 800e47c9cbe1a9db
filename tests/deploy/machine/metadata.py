"""EC2's metadata service by its protocol: a token by PUT, user data, a spot notice where /standins/notice is."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path


class Metadata(BaseHTTPRequestHandler):
    """Answers as version 2 does."""

    def do_PUT(self) -> None:
        """Hand out a token."""
        wanted = self.path == "/latest/api/token" and self.headers["X-aws-ec2-metadata-token-ttl-seconds"]
        self._answer(200 if wanted else 400, "the-token")

    def do_GET(self) -> None:
        """Say what is known."""
        if self.headers["X-aws-ec2-metadata-token"] != "the-token":
            self._answer(401, "")
        elif self.path == "/latest/meta-data/spot/instance-action" and Path("/standins/notice").exists():
            self._answer(200, '{"action": "stop", "time": "2026-11-26T12:00:00Z"}')
        elif self.path == "/latest/user-data" and Path("/user-data").exists():
            self._answer(200, Path("/user-data").read_text())
        else:
            self._answer(404, "")

    def _answer(self, status: int, body: str) -> None:
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body.encode())


HTTPServer(("127.0.0.1", 1338), Metadata).serve_forever()
