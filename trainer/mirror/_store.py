"""Where a mirror is: objects that are whole or absent, and two of them that change only from the version one has read.

MirrorError     it cannot be used now: wrong bucket or credentials, denied
└── NoAnswer    it may be a moment later: no network, a server that is too busy
└── Gone        the object is not there any more
Changed         somebody else has written that object since it was read
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import secrets
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol
from urllib.parse import unquote, urlsplit

from trainer.errors import ConfigError, MirrorError
from trainer.files import read_regular, sync_folder

BLOCK = 2**20  # bytes that are read at once
VERSIONS = 3  # of a changing object that a folder keeps
TRIALS = ("probe-", "condition-")  # how objects begin that are written to see that they can be
LEFT_SECONDS = 3600.0  # after which what a process has not deleted is called left
_VERSION = re.compile(r"(.+)~(\d{12})")


class NoAnswer(MirrorError):
    """The store did not answer, or not to the end; a later try may succeed."""


class Gone(MirrorError):
    """An object that was to be fetched is not there any more."""


class Changed(Exception):
    """Another process has written the object since."""


class Found(NamedTuple):
    """An object that changes, as it was read."""

    data: bytes
    version: str  # unlike that of any other content of the same name
    age: float  # seconds since it was written, by the clock of the store


class Store(Protocol):
    """The objects of one run. Every method raises MirrorError where the store cannot be used now."""

    def read(self, name: str) -> Found | None:
        """An object that changes; None if there is none."""

    def write(self, name: str, data: bytes, *, version: str | None) -> str:
        """Write an object that is of that `version` now, or absent (None); its new version.

        Raises: Changed if it is not.
        """

    def put(self, name: str, file: BinaryIO, size: int, sha256: str) -> None:
        """Write an object of that many bytes, which becomes whole or stays absent."""

    def get(self, name: str, file: BinaryIO) -> None:
        """Write the bytes of an object to `file`; whether they are what was put, the caller compares. Raises: Gone."""

    def delete(self, names: list[str]) -> None:
        """Delete objects, which need not be there."""

    def names(self, prefix: str) -> list[str]:
        """Names of all objects that begin so."""

    def sweep(self) -> None:
        """Delete what killed processes have left an hour ago or longer, beside the files of the run."""


def open_store(url: str, run: str = "") -> Store:
    """The store of a run below the address of all.

    Args:
        url: s3://BUCKET/PREFIX, file:///PATH, or a path.
        run: name of the run's folder; empty: of all runs, to be listed.

    Raises: ConfigError if it is another kind of address; MirrorError if it cannot be used.
    """
    check_address(url)
    parts = urlsplit(url)
    if parts.scheme == "s3":
        from trainer.mirror._s3 import Bucket

        return Bucket(parts.netloc, "".join(f"{one}/" for one in (parts.path.strip("/"), run) if one))
    return Folder(_path(url), run)


def check_address(url: str, runs: Path | None = None) -> None:
    """Raises: ConfigError if it is not an address that the mirror of a run in `runs` can have."""
    try:
        parts = urlsplit(url)
    except ValueError:  # of brackets
        raise ConfigError(f"{url!r} cannot be RUNS_REMOTE: give s3://BUCKET/PREFIX, or a path") from None
    if "@" in parts.netloc:
        raise ConfigError(
            "RUNS_REMOTE holds credentials: leave them out of the address, for AWS_ACCESS_KEY_ID, AWS_PROFILE or a "
            "role of the machine"
        )
    if not url or parts.scheme not in ("s3", "file", "") or (parts.scheme == "s3" and not parts.netloc):
        raise ConfigError(
            f"{url!r} cannot be RUNS_REMOTE: give s3://BUCKET/PREFIX, or the path of a disk that outlives the machine; "
            "of other addresses none is known to keep two machines apart"
        )
    if parts.scheme == "file" and parts.netloc:
        raise ConfigError(
            f"{url!r} names a machine: give RUNS_REMOTE as file:///PATH, with three slashes, or as a path"
        )
    if parts.scheme and (parts.query or parts.fragment):
        raise ConfigError(
            f"{url!r} cannot be RUNS_REMOTE: ? and # have no meaning there; choose another prefix"
        )
    if parts.scheme != "s3" and runs:
        mirrors, runs = _path(url).resolve(), runs.resolve()
        if mirrors in (runs, *runs.parents) or runs in mirrors.parents:
            raise ConfigError(
                f"RUNS_REMOTE {url} and --runs {runs} hold one another: give a folder of another disk"
            )


def _path(url: str) -> Path:
    parts = urlsplit(url)
    return Path(unquote(parts.path) if parts.scheme else url)


def digest_of(file: Any) -> str:
    """SHA-256 of a binary file from its beginning, to which it is set back."""
    file.seek(0)
    sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    file.seek(0)
    return sha256


def as_base64(sha256: str) -> str:
    """A digest as S3 wants it."""
    return base64.b64encode(bytes.fromhex(sha256)).decode()


class Folder:
    """A store in a folder of a disk that several machines may share.

    An object that changes is a series of files, of which the last counts: a link to the next number is made by one
    machine only, also on NFS.
    """

    def __init__(self, root: Path, run: str) -> None:
        if not root.is_dir():
            # Not made: where a disk was to be mounted, it would be one of this machine.
            raise MirrorError(f"{root} is no folder: mount its disk, or make it")
        self._folder = root / run

    def read(self, name: str) -> Found | None:
        """See `Store`."""
        while True:
            with _sentences(self._folder):
                newest = self._newest(name)
                if newest is None:
                    return None
                with suppress(FileNotFoundError):  # a newer one has come
                    path = self._folder / f"{name}~{newest:012d}"
                    return Found(read_regular(path), str(newest), self._now() - path.stat().st_mtime)

    def write(self, name: str, data: bytes, *, version: str | None) -> str:
        """See `Store`."""
        with _sentences(self._folder):
            number = int(version or 0) + 1
            beside = self._beside(name)
            try:
                with beside.open("xb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                if (self._newest(name) or 0) != number - 1:
                    raise Changed
                os.link(beside, self._folder / f"{name}~{number:012d}")
            except FileExistsError:
                raise Changed from None
            finally:
                beside.unlink(missing_ok=True)
            sync_folder(self._folder)
            (self._folder / f"{name}~{number - VERSIONS:012d}").unlink(missing_ok=True)
        return str(number)

    def put(self, name: str, file: BinaryIO, size: int, sha256: str) -> None:
        """See `Store`."""
        with _sentences(self._folder):
            path = self._folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            beside = self._beside("object")
            try:
                with beside.open("xb") as copy:
                    shutil.copyfileobj(file, copy, BLOCK)
                    copy.flush()
                    os.fsync(copy.fileno())
                os.replace(beside, path)
            finally:
                beside.unlink(missing_ok=True)
            sync_folder(path.parent)

    def get(self, name: str, file: BinaryIO) -> None:
        """See `Store`."""
        with _sentences(self._folder):
            try:
                with (self._folder / name).open("rb") as stored:
                    shutil.copyfileobj(stored, file, BLOCK)
            except FileNotFoundError:
                raise Gone(f"{self._folder / name} is not there any more") from None

    def delete(self, names: list[str]) -> None:
        """See `Store`."""
        with _sentences(self._folder):
            for name in names:
                (self._folder / name).unlink(missing_ok=True)
                for parent in (self._folder / name).parents:
                    if parent == self._folder:
                        break
                    with suppress(OSError):  # it holds others
                        parent.rmdir()

    def names(self, prefix: str) -> list[str]:
        """See `Store`."""
        with _sentences(self._folder):
            paths = (path for path in self._folder.rglob("*") if path.is_file())
            names = (path.relative_to(self._folder).as_posix() for path in paths)
            return sorted(name for name in names if name.startswith(prefix))

    def sweep(self) -> None:
        """See `Store`."""
        with _sentences(self._folder):
            before = self._now() - LEFT_SECONDS
            for pattern in (".*", *(f"{name}*" for name in TRIALS)):
                for path in self._folder.glob(pattern):
                    with suppress(FileNotFoundError):
                        if path.is_file() and path.stat().st_mtime < before:
                            path.unlink()

    def _beside(self, name: str) -> Path:
        self._folder.mkdir(exist_ok=True)
        return self._folder / f".{name}.{secrets.token_hex(8)}"

    def _newest(self, name: str) -> int | None:
        found = [_VERSION.fullmatch(path.name) for path in self._folder.glob(f"{name}~*")]
        return max((int(match[2]) for match in found if match), default=None)

    def _now(self) -> float:
        """The time of whoever keeps the disk: that of this machine may be another."""
        probe = self._beside("now")
        try:
            probe.touch()
            return probe.stat().st_mtime
        finally:
            probe.unlink(missing_ok=True)


class _sentences:
    """Makes MirrorError of what a disk answers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, OSError):
            raise MirrorError(
                f"{error.filename or self._folder}: {error.strerror or error}; look at its disk and its owner"
            ) from None
