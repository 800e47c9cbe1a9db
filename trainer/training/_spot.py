"""EC2's notice that a spot instance is taken back."""

from __future__ import annotations

import json
import logging
import os
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

POLL = 5.0  # seconds; AWS recommends it for spot notices, which come two minutes ahead
TIMEOUT = 2.0  # seconds, of a request to the metadata service
TOKEN_SECONDS = 21600  # lifetime of a token; IMDSv2 allows no more
LINK_LOCAL = "http://169.254.169.254"
VENDOR = Path("/sys/class/dmi/id/sys_vendor")

logger = logging.getLogger(__name__)


def metadata_service() -> str | None:
    """Address of the instance metadata service; None elsewhere than on EC2, or where it is switched off.

    Source: the variables of the AWS SDKs, docs.aws.amazon.com/sdkref/latest/guide/feature-imds-client.html.
    """
    if os.environ.get("AWS_EC2_METADATA_DISABLED", "").lower() == "true":
        return None
    if address := os.environ.get("AWS_EC2_METADATA_SERVICE_ENDPOINT"):
        return address.rstrip("/")
    try:
        return LINK_LOCAL if VENDOR.read_text().strip() == "Amazon EC2" else None
    except OSError:
        return None


class SpotWatch:
    """Asks EC2 every few seconds, in a thread, whether the instance is to be taken away.

        with SpotWatch(address, notice=stop.ask): …

    Source: IMDSv2 and `spot/instance-action`, docs.aws.amazon.com/AWSEC2/latest/UserGuide/
    spot-instance-termination-notices.html and configuring-instance-metadata-service.html.
    """

    def __init__(
        self,
        address: str | None,
        *,
        notice: Callable[[str], None],
        poll: float = POLL,
    ) -> None:
        """Prepare the thread; entering the context starts it.

        Args:
            address: address of the metadata service; None: this is not EC2, and no thread is started.
            notice: called once, from the thread, with the reason, when the instance is to be taken away.
            poll: seconds between two requests.
        """
        self._address, self._notice, self._poll = address, notice, poll
        self._token = ""
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watch-spot", daemon=True)
        # No proxy: this address is the machine's own.
        self._open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def __enter__(self) -> SpotWatch:
        if self._address:
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        if self._address:
            self._thread.join(2 * TIMEOUT)

    def pending(self) -> str | None:
        """EC2's notice that it takes this instance away, as the reason of a stop; None without one.

        Raises: OSError if the metadata service does not answer.
        """
        if not self._address or (text := self._get("spot/instance-action")) is None:
            return None
        try:
            notice = json.loads(text)
            return f"because EC2 will {notice['action']} this spot instance at {notice['time']}"
        except (ValueError, KeyError, TypeError):
            return "because EC2 will take this spot instance back"

    def _watch(self) -> None:
        failures, warned = 0, False
        while not self._end.is_set():
            try:
                if reason := self.pending():
                    self._notice(reason)
                    return
                if not warned and self._get("events/recommendations/rebalance") is not None:
                    warned = True
                    logger.warning("EC2 sees an elevated risk that this spot instance is taken back")
                failures = 0
            except OSError as error:
                failures += 1
                if failures == 3:
                    logger.warning(
                        "EC2's metadata service does not answer (%s), so a spot notice would not be seen; a container "
                        "needs an instance with HttpPutResponseHopLimit 2 or more",
                        getattr(error, "reason", None) or error,
                    )
            self._end.wait(self._poll)

    def _get(self, entry: str) -> str | None:
        """The text of an entry of the metadata; None where there is no such entry now."""
        for _ in range(2):
            self._token = self._token or self._request(
                "PUT", "api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_SECONDS)}
            )
            try:
                return self._request("GET", f"meta-data/{entry}", {"X-aws-ec2-metadata-token": self._token})
            except urllib.error.HTTPError as error:
                if error.code == 404:
                    return None
                if error.code != 401:
                    raise
                self._token = ""  # expired
        raise OSError("it rejects the tokens that it has issued itself")

    def _request(self, method: str, path: str, headers: dict[str, str]) -> str:
        request = urllib.request.Request(f"{self._address}/latest/{path}", method=method, headers=headers)
        try:
            with self._open(request, timeout=TIMEOUT) as answer:
                text: str = answer.read(4096).decode()
                return text
        except urllib.error.HTTPError as error:
            error.close()
            raise
