"""Addresses of remote files, and what may be said of them.

They are shown and kept without a password, and without what stands behind a question mark: there a presigned one has
its signature.
"""

from __future__ import annotations

import os
from urllib.parse import unquote, urlsplit, urlunsplit


class Gone(Exception):
    """What will not come, however often it is asked for; its text is a sentence for the user."""


def is_url(source: str) -> bool:
    """Whether it is the address of a remote file: no path, no magnet link."""
    return "://" in source


def shown_url(url: str) -> str:
    """An address as it may be shown and kept."""
    parts = urlsplit(url)
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def name_of(url: str) -> str:
    """Name of the file behind an address."""
    return os.path.basename(unquote(urlsplit(url).path).rstrip("/")) or "archive"
