"""Archives by their addresses: read in place, downloaded and resumed where the connection was cut, or by torrent."""

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

from trainer.dataset._addresses import is_url, name_of, shown_url
from trainer.dataset._archive_files import ArchiveFile
from trainer.dataset._disk import require_space
from trainer.dataset._remote import RemoteFile
from trainer.dataset._web import is_permanent, version_of
from trainer.errors import DataError
from trainer.files import read_json

TRIES = 6  # in a row without a single byte
BACKOFF = 1.0  # seconds after the first failed try, doubled after each
TIMEOUT = 30  # seconds without a byte
READ_SIZE = 2**20  # bytes at most between two calls of progress
OTHER_DISK = "or name a folder on another disk with --downloads"

Progress = Callable[[int, int], None]  # called with the bytes downloaded so far and the total (0: unknown)


def fetch(
    source: str,
    downloads: Path,
    *,
    stream: bool = False,
    endings: tuple[str, ...] = (),
    progress: Progress = lambda done, total: None,
    backoff: float = BACKOFF,
) -> ArchiveFile:
    """The archive `source`: its path on this machine, after a download where one is needed, or the file where it is.

    Args:
        source: a path, an address such as https:// or s3://; a magnet link or a .torrent file, which go to aria2c.
        downloads: folder of downloads. An archive that is there already is not downloaded again.
        stream: whether a remote archive is to be read in place, without a copy of it.
        endings: ends of the file names of archives that a torrent may bring.
        progress: called with the bytes downloaded so far and the total.
        backoff: seconds after the first failed try, doubled after each.

    Raises: DataError if there is no such file, or the download fails; the same call resumes it.
    """
    if source.startswith("magnet:") or urlsplit(source).path.endswith(".torrent"):
        return _torrent(source, downloads, endings)
    if source.startswith("file://"):
        source = unquote(urlsplit(source).path)
    if is_url(source):
        if stream:
            return RemoteFile(source)
        if source.startswith(("http://", "https://")):
            return _http(source, downloads, progress, backoff)
        return _copy(source, downloads, progress)
    path = Path(source)
    if os.path.isdir(path):
        raise DataError(
            f"{path} is a folder, not an archive; give the archive itself, or prepare a folder that has train/CLASS/* "
            f"and val/CLASS/* with: trainer prepare folder {path}"
        )
    if not os.path.isfile(path):
        raise DataError(f"there is no archive {path}; give the path or URL of a published archive")
    return path


def _copy(url: str, downloads: Path, progress: Progress) -> Path:
    """Download from S3 and the like."""
    done, partial = downloads / name_of(url), downloads / f"{name_of(url)}.part"
    if done.exists():
        return done
    downloads.mkdir(parents=True, exist_ok=True)
    file = RemoteFile(url)
    version = {"url": str(file), "version": file.version, "total": file.size}
    size = _size(partial) if file.version and _known_version(partial) == version else 0
    require_space(partial.parent, file.size - size, "the download needs", OTHER_DISK)
    _version_file(partial).write_text(json.dumps(version))
    with partial.open("ab") as copy:
        copy.truncate(size)
        for block in file.blocks(size):
            copy.write(block)
            size += len(block)
            progress(size, file.size)
    os.replace(partial, done)
    _version_file(partial).unlink(missing_ok=True)
    return done


# `requests` is imported where it is used: machines that only train need not have it.


def _http(url: str, downloads: Path, progress: Progress, backoff: float) -> Path:
    import requests
    import urllib3

    done, partial = downloads / name_of(url), downloads / f"{name_of(url)}.part"
    if done.exists():
        return done
    downloads.mkdir(parents=True, exist_ok=True)
    failures = 0
    while True:
        size_before = _size(partial)
        try:
            _get(url, partial, progress)
            break
        except (requests.RequestException, urllib3.exceptions.HTTPError, _CutOff) as error:
            failures = failures + 1 if _size(partial) <= size_before else 1
            if failures >= TRIES or _is_permanent(error):
                raise DataError(
                    f"{shown_url(url)} cannot be downloaded ({_reason(error)}); {_size(partial):,} bytes are kept, "
                    "the same command goes on from there"
                ) from None
            time.sleep(backoff * 2 ** (failures - 1))
    os.replace(partial, done)
    _version_file(partial).unlink(missing_ok=True)
    return done


def _get(url: str, partial: Path, progress: Progress) -> None:
    """One try: from the end of the last one, if the server still has the same version of the file."""
    import requests

    start, headers = _size(partial), {"Accept-Encoding": "identity"}
    known = _known_version(partial)
    if start and known.get("url") == shown_url(url) and known.get("version"):
        headers |= {"Range": f"bytes={start}-", "If-Range": str(known["version"])}
    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        status, codes = response.status_code, requests.codes
        if status == codes.requested_range_not_satisfiable and start == known.get("total"):
            return
        response.raise_for_status()
        done = start if status == codes.partial_content else 0
        if done and not response.headers.get("Content-Range", "").startswith(f"bytes {done}-"):
            raise _CutOff("the server sent another range than the requested one")
        length = response.headers.get("Content-Length")
        total = done + int(length) if length else 0
        require_space(partial.parent, total - done, "the download needs", OTHER_DISK)
        version = {"url": shown_url(url), "version": version_of(response), "total": total}
        _version_file(partial).write_text(json.dumps(version))
        with partial.open("ab") as file:
            file.truncate(done)
            # Not iter_content: it keeps nothing of a chunk that is cut off.
            while data := response.raw.read1(READ_SIZE):
                file.write(data)
                done += len(data)
                progress(done, total)
        if done < total:
            raise _CutOff(f"the connection ended after {done:,} of {total:,} bytes")


class _CutOff(Exception):
    """The response ended early."""


def _is_permanent(error: Exception) -> bool:
    response = getattr(error, "response", None)
    return response is not None and is_permanent(response.status_code)


def _reason(error: Exception) -> str:
    response = getattr(error, "response", None)
    if response is not None:
        return f"the server answers {response.status_code} {response.reason}"
    import requests

    if isinstance(error, requests.ConnectionError):
        return "no connection"
    return str(error)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _version_file(partial: Path) -> Path:
    return partial.with_name(f".{partial.name}.json")


def _known_version(partial: Path) -> dict[str, object]:
    with suppress(OSError, ValueError):
        known = read_json(_version_file(partial))
        if isinstance(known, dict):
            return known
    return {}


# Go on after a kill, with the pieces that are right, and write no file of zeros first.
_ARIA2 = ("--continue=true", "--check-integrity=true", "--file-allocation=none")


def _torrent(source: str, downloads: Path, endings: tuple[str, ...]) -> Path:
    command = ["aria2c", f"--dir={downloads}", "--seed-time=0", *_ARIA2, source]
    if shutil.which("aria2c") is None:
        raise DataError(
            "a torrent needs aria2c, which is not installed (Debian, Ubuntu: apt install aria2); or download it "
            f"elsewhere with: {' '.join(command[:-1])} '{source}' and give the file"
        )
    downloads.mkdir(parents=True, exist_ok=True)
    code = subprocess.run(command, check=False).returncode
    if code:
        raise DataError(f"aria2c ended with exit code {code}; the same command goes on where it was")
    found = sorted(path for path in downloads.rglob("*") if path.name.endswith(endings))
    if len(found) != 1:
        raise DataError(
            f"the torrent brought {len(found)} archive(s) to {downloads} ({', '.join(p.name for p in found)}); "
            "give the path of the right one"
        )
    return found[0]
