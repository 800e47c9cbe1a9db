"""EC2's notice that a spot instance is taken back, over IMDSv2 as AWS documents it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from trainer.stop import StopRequest
from trainer.training import SpotWatch, _spot, metadata_service


class Metadata(ThreadingHTTPServer):
    """EC2's instance metadata service, version 2: nothing without a token, a token only by PUT."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.address = f"http://127.0.0.1:{self.server_port}"
        self.entries: dict[str, str] = {}
        self.tokens: list[str] = []
        self.asked: list[str] = []
        self.answers = True

    def __enter__(self) -> Metadata:
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()


class _Answer(BaseHTTPRequestHandler):
    server: Metadata

    def do_PUT(self) -> None:
        life = self.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
        if self.path != "/latest/api/token" or not life.isdigit() or not 1 <= int(life) <= 21600:
            return self._say(400)
        self.server.tokens.append(f"token-{len(self.server.tokens)}")
        return self._say(200, self.server.tokens[-1])

    def do_GET(self) -> None:
        if not self.server.answers:
            return self._say(503)
        if self.headers.get("X-aws-ec2-metadata-token") not in self.server.tokens[-1:]:
            return self._say(401)
        self.server.asked.append(self.path.removeprefix("/latest/meta-data/"))
        entry = self.server.entries.get(self.server.asked[-1])
        return self._say(404) if entry is None else self._say(200, entry)

    def _say(self, code: int, text: str = "") -> None:
        self.send_response(code)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def metadata() -> Iterator[Metadata]:
    with Metadata() as server:
        yield server


def until(condition: Any) -> None:
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.01)


NOTICE = json.dumps({"action": "terminate", "time": "2026-11-21T17:18:00Z"})


def test_a_spot_notice_asks_for_a_stop_and_says_when_the_instance_goes(metadata: Metadata) -> None:
    stop = StopRequest()
    with SpotWatch(metadata.address, notice=stop.ask, poll=0.01):
        until(lambda: len(metadata.asked) > 4)
        assert not stop.made
        metadata.entries["spot/instance-action"] = NOTICE
        until(lambda: stop.made)

    assert stop.reason == "because EC2 will terminate this spot instance at 2026-11-21T17:18:00Z"


def test_a_rebalance_recommendation_is_said_once_and_stops_nothing(
    metadata: Metadata, caplog: pytest.LogCaptureFixture
) -> None:
    stop = StopRequest()
    metadata.entries["events/recommendations/rebalance"] = json.dumps({"noticeTime": "2026-11-21T17:10:00Z"})
    with SpotWatch(metadata.address, notice=stop.ask, poll=0.01):
        until(lambda: metadata.asked.count("spot/instance-action") > 5)

    assert caplog.messages == ["EC2 sees an elevated risk that this spot instance is taken back"]
    assert not stop.made


def test_a_token_that_has_run_out_is_renewed(metadata: Metadata) -> None:
    watch = SpotWatch(metadata.address, notice=print)
    assert watch.pending() is None
    metadata.tokens.append("of somebody else")
    metadata.entries["spot/instance-action"] = NOTICE

    assert watch.pending() == "because EC2 will terminate this spot instance at 2026-11-21T17:18:00Z"
    assert len(metadata.tokens) == 3


def test_an_outage_of_the_service_is_said_once_and_overcome(
    metadata: Metadata, caplog: pytest.LogCaptureFixture
) -> None:
    stop = StopRequest()
    metadata.answers = False
    with SpotWatch(metadata.address, notice=stop.ask, poll=0.01):
        until(lambda: caplog.messages)
        metadata.answers = True
        metadata.entries["spot/instance-action"] = NOTICE
        until(lambda: stop.made)

    assert len(caplog.messages) == 1
    assert "HttpPutResponseHopLimit" in caplog.messages[0]


def test_elsewhere_than_on_ec2_nothing_is_asked(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", raising=False)
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED", raising=False)
    monkeypatch.setattr(_spot, "VENDOR", tmp_path / "sys_vendor")
    assert metadata_service() is None
    (tmp_path / "sys_vendor").write_text("QEMU\n")
    assert metadata_service() is None
    with SpotWatch(metadata_service(), notice=print):
        assert "watch-spot" not in {thread.name for thread in threading.enumerate()}


def test_on_ec2_the_service_is_found_and_can_be_moved_or_switched_off(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", raising=False)
    monkeypatch.setattr(_spot, "VENDOR", tmp_path / "sys_vendor")
    (tmp_path / "sys_vendor").write_text("Amazon EC2\n")

    assert metadata_service() == "http://169.254.169.254"
    monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://[fd00:ec2::254]/")
    assert metadata_service() == "http://[fd00:ec2::254]"
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    assert metadata_service() is None
