"""Files on web servers, by `requests`: it knows proxies, redirects and ~/.netrc."""

from __future__ import annotations

import re
from collections.abc import Iterator
from http import HTTPStatus
from http.client import responses
from typing import TYPE_CHECKING

from trainer.dataset._addresses import Gone, shown_url

if TYPE_CHECKING:
    from requests import Response

TIMEOUT = 30  # seconds without a byte
PIECE = 2**20  # bytes
PARALLEL = 4  # connections; public servers turn away whoever opens many


class WebServer:
    """Where one file is on a web server; see `Server`."""

    parallel = PARALLEL

    def __init__(self, url: str) -> None:
        """Ask for its first byte: not every server answers HEAD, and a presigned address allows GET alone.

        Raises: Gone if it may not be read, an error of `requests` if the server does not answer.
        """
        import requests
        from requests.adapters import HTTPAdapter

        self._url, self._session = url, requests.Session()
        for scheme in ("http://", "https://"):
            self._session.mount(scheme, HTTPAdapter(pool_maxsize=PARALLEL))
        with self._get({"Range": "bytes=0-0"}) as response:
            found = re.fullmatch(r"bytes 0-0/(\d+)", response.headers.get("Content-Range", ""))
            self.ranges = response.status_code == HTTPStatus.PARTIAL_CONTENT and found is not None
            size = found[1] if found else response.headers.get("Content-Length", "")
            if not size.isdigit():
                raise Gone(
                    f"the server of {shown_url(url)} does not say how long the file is; download it and give the file"
                )
            self.size, self.version = int(size), version_of(response)

    def pieces(self, start: int, end: int) -> Iterator[bytes]:
        """The bytes from `start` to `end`, in pieces; from a server without ranges the whole file."""
        headers = {"Range": f"bytes={start}-{end - 1}"} if self.ranges else {}
        if self.ranges and self.version:
            headers["If-Range"] = self.version
        with self._get(headers) as response:
            if self.ranges:
                same = response.headers.get("Content-Range", "") == f"bytes {start}-{end - 1}/{self.size}"
            else:
                same = response.headers.get("Content-Length", "") == str(self.size)
            if not same or version_of(response) != self.version:
                raise Gone(f"{shown_url(self._url)} changed while it was read; start the same command again")
            # Not iter_content: it keeps nothing of a chunk that is cut off.
            while data := response.raw.read1(PIECE):
                yield data

    def _get(self, headers: dict[str, str]) -> Response:
        import requests

        try:
            response = self._session.get(
                self._url, headers={"Accept-Encoding": "identity"} | headers, stream=True, timeout=TIMEOUT
            )
        except (requests.exceptions.InvalidURL, requests.TooManyRedirects) as error:
            raise Gone(f"{shown_url(self._url)} is no address that leads to a file ({error})") from None
        except requests.ConnectionError:
            raise OSError("no connection") from None  # its words have the whole address
        if is_permanent(response.status_code):
            response.close()
            raise Gone(refusal(self._url, response.status_code))
        response.raise_for_status()
        return response


def version_of(response: Response) -> str | None:
    """What changes with the content, as far as the server says."""
    etag = response.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")


def is_permanent(status: int) -> bool:
    """Whether a server gives this answer again and again."""
    return 400 <= status < 500 and status not in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)


def refusal(url: str, status: int) -> str:
    """Why the file does not come, and what to do."""
    cures: dict[int, str] = {
        HTTPStatus.UNAUTHORIZED: "it wants a login: put it into ~/.netrc, or download the file and give its path",
        HTTPStatus.FORBIDDEN: "it may not be read; a presigned address ends after some hours: make a new one",
        HTTPStatus.NOT_FOUND: "there is no such file; look at the address again",
    }
    cure = cures.get(status, "download the file and give its path")
    # Servers have codes of their own, which have no name.
    return f"{shown_url(url)}: the server answers {status} {responses.get(status, '')}".rstrip() + f": {cure}"
