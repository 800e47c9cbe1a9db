"""Getting an archive: a path, a URL whose download goes on where it was cut off, or a torrent."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from urllib.parse import unquote, urlsplit

from trainer.errors import DataError

TRIES = 6  # in a row without a single byte
PAUSE = 1.0  # seconds after the first failed try, doubled after each
TIMEOUT = 30  # seconds without a byte
PIECE = 2**20  # bytes at most between two looks at the progress

Progress = Callable[[int, int], None]  # bytes here, bytes in all (0: unknown)


def fetch(
    source: str,
    downloads: Path,
    *,
    finds: tuple[str, ...] = (),
    progress: Progress = lambda here, total: None,
    pause: float = PAUSE,
) -> Path:
    """Where the archive `source` is on this machine, after downloading it if need be.

    Args:
        source: a path, an http(s) URL, a magnet link or a .torrent file; the last two go to aria2c.
        downloads: where downloads go. What is there already is not downloaded again.
        finds: how the names of archives end that a torrent may bring.
        progress: told of the bytes that are here.
        pause: seconds after the first failed try.

    Raises: DataError if there is no such file, or it cannot be had; the same call goes on.
    """
    if source.startswith("magnet:") or source.endswith(".torrent"):
        return _torrent(source, downloads, finds)
    if source.startswith(("http://", "https://")):
        return _http(source, downloads, progress, pause)
    path = Path(source)
    if "://" in source:
        raise DataError(f"{source} is neither a path nor an http(s) address; download it and give the file")
    if not path.is_file():
        raise DataError(f"there is no archive {path}; give the path or URL of a published archive")
    return path


# `requests` is imported where it is used: machines that only train need not have it.


def _http(url: str, downloads: Path, progress: Progress, pause: float) -> Path:
    import requests
    import urllib3

    name = os.path.basename(unquote(urlsplit(url).path)) or "archive"
    done, partial = downloads / name, downloads / f"{name}.part"
    if done.exists():
        return done
    downloads.mkdir(parents=True, exist_ok=True)
    failures = 0
    while True:
        before = _size(partial)
        try:
            _get(url, partial, progress)
            break
        except (requests.RequestException, urllib3.exceptions.HTTPError, _CutOff) as error:
            failures = failures + 1 if _size(partial) <= before else 1
            if failures >= TRIES or _hopeless(error):
                raise DataError(
                    f"{url} cannot be downloaded ({_reason(error)}); {_size(partial):,} bytes are kept, the same "
                    "command goes on from there"
                ) from None
            time.sleep(pause * 2 ** (failures - 1))
    os.replace(partial, done)
    _version(partial).unlink(missing_ok=True)
    return done


def _get(url: str, partial: Path, progress: Progress) -> None:
    """One try: from where the last one ended, if the server still has the very same file."""
    import requests

    here, headers = _size(partial), {"Accept-Encoding": "identity"}
    known = _known(partial)
    if here and known.get("url") == url and known.get("version"):
        headers |= {"Range": f"bytes={here}-", "If-Range": str(known["version"])}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as answer:
        if answer.status_code == requests.codes.requested_range_not_satisfiable and here == known.get(
            "total"
        ):
            return
        answer.raise_for_status()
        begin = here if answer.status_code == requests.codes.partial_content else 0
        if begin and not answer.headers.get("Content-Range", "").startswith(f"bytes {begin}-"):
            raise _CutOff("the server sent another part than was asked for")
        length = answer.headers.get("Content-Length")
        total = begin + int(length) if length else 0
        _check_room(partial, total - begin)
        etag = answer.headers.get("ETag", "")
        version = etag if etag and not etag.startswith("W/") else answer.headers.get("Last-Modified")
        _version(partial).write_text(json.dumps({"url": url, "version": version, "total": total}))
        with partial.open("ab") as file:
            file.truncate(begin)
            # Not iter_content: of a piece that is cut off it keeps nothing.
            while piece := answer.raw.read1(PIECE):
                file.write(piece)
                begin += len(piece)
                progress(begin, total)
        if begin < total:
            raise _CutOff(f"the connection ended after {begin:,} of {total:,} bytes")


class _CutOff(Exception):
    """The server stopped in the middle."""


def _hopeless(error: Exception) -> bool:
    answer = getattr(error, "response", None)
    return answer is not None and 400 <= answer.status_code < 500 and answer.status_code not in (408, 429)


def _reason(error: Exception) -> str:
    answer = getattr(error, "response", None)
    if answer is not None:
        return f"the server answers {answer.status_code} {answer.reason}"
    import requests

    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return str(error)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _version(partial: Path) -> Path:
    return partial.with_name(f".{partial.name}.json")


def _known(partial: Path) -> dict[str, object]:
    with suppress(OSError, ValueError):
        known = json.loads(_version(partial).read_text())
        if isinstance(known, dict):
            return known
    return {}


def _check_room(partial: Path, needed: int) -> None:
    free = shutil.disk_usage(partial.parent).free
    if needed > free:
        raise DataError(
            f"the download needs {needed / 1e9:,.1f} GB more, and the disk of {partial.parent} has "
            f"{free / 1e9:,.1f} GB free; free some, or name a folder on another disk with --downloads"
        )


def _torrent(source: str, downloads: Path, finds: tuple[str, ...]) -> Path:
    command = ["aria2c", f"--dir={downloads}", "--seed-time=0", "--continue=true", source]
    if shutil.which("aria2c") is None:
        raise DataError(
            "a torrent needs aria2c, which is not installed (Debian, Ubuntu: apt install aria2); or download it "
            f"elsewhere with: {' '.join(command[:-1])} '{source}' and give the file"
        )
    downloads.mkdir(parents=True, exist_ok=True)
    ended = subprocess.run(command, check=False).returncode
    if ended:
        raise DataError(f"aria2c ended with exit code {ended}; the same command goes on where it was")
    found = sorted(path for path in downloads.rglob("*") if path.name.endswith(finds))
    if len(found) != 1:
        raise DataError(
            f"the torrent brought {len(found)} archive(s) to {downloads} ({', '.join(p.name for p in found)}); "
            "give the one that is meant by its path"
        )
    return found[0]
