"""Repositories on the Hugging Face Hub: what they hold, and their files, downloaded one ahead of the other.

huggingface_hub does the downloading, with its Xet protocol where the Hub has it; here it is asked again with patience,
and what it says becomes a sentence.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TypeVar

from trainer.dataset._disk import require_space
from trainer.dataset._names import several
from trainer.errors import DataError

AHEAD = 2  # files that are downloaded while one is read
TRIES = 8  # of each request, beside those of the library itself
BACKOFF = 1.0  # seconds after the first failed try, doubled after each
MAX_WAIT = 60.0  # seconds between two tries, unless the Hub names a longer time

Progress = Callable[[int, int], None]  # called with the bytes downloaded so far and the total
T = TypeVar("T")


@dataclass(frozen=True)
class Repository:
    """One revision of a data set on the Hub."""

    name: str  # OWNER/NAME
    commit: str
    files: Mapping[str, int]  # bytes by path


def find_repository(name: str, revision: str | None = None, *, backoff: float = BACKOFF) -> Repository:
    """Ask the Hub what a data set holds, and whether the user may have it.

    Args:
        name: OWNER/NAME.
        revision: a commit, branch or tag (default: main).
        backoff: seconds after the first failed try, doubled after each.

    Raises: DataError if there is no such data set, its terms are not accepted, or the Hub does not answer.
    """
    _configure()
    from huggingface_hub import HfApi
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError
    from huggingface_hub.hf_api import RepoFile

    api = HfApi()

    def may_read() -> None:
        try:
            api.auth_check(name, repo_type="dataset")
        except GatedRepoError:
            raise
        except HfHubHTTPError as error:
            if error.response.status_code != 404:  # a mirror may not have this question
                raise

    with _sentences(name, revision):
        info = _patiently(lambda: api.dataset_info(name, revision=revision), backoff)
        commit = str(info.sha)
        _patiently(may_read, backoff)
        listed = _patiently(
            lambda: list(api.list_repo_tree(name, recursive=True, revision=commit, repo_type="dataset")),
            backoff,
        )
    files = {one.path: one.size for one in listed if isinstance(one, RepoFile)}
    if outside := [path for path in files if path.startswith("/") or ".." in path.split("/")]:
        raise DataError(f"{name} names files outside of a folder ({several(outside)}); nothing is downloaded")
    return Repository(name, commit, files)


class Downloads:
    """Some files of a repository, which are read in order and downloaded one ahead of the other."""

    def __init__(
        self,
        repository: Repository,
        names: list[str],
        folder: Path,
        *,
        keep: bool,
        progress: Progress = lambda done, total: None,
        backoff: float = BACKOFF,
    ) -> None:
        """Nothing is downloaded yet.

        Args:
            repository: where the files are.
            names: paths of the files in it, in the order in which they are read.
            folder: where they are downloaded to.
            keep: whether they stay there when they have been read.
            progress: called with the bytes of `names` that have been downloaded, and of all.
            backoff: seconds after the first failed try, doubled after each.
        """
        self._repository, self._names, self._folder = repository, names, folder
        self._keep, self._progress, self._backoff = keep, progress, backoff
        self._begun = False
        self._stopped = threading.Event()
        self._slots = threading.Semaphore(1 + AHEAD)
        self._ready: SimpleQueue[tuple[str, Path | BaseException]] = SimpleQueue()

    @contextmanager
    def open(self, name: str) -> Iterator[Path]:
        """The path of a file, once it is there. Those before it in the order are not asked for any more."""
        if not self._begun:
            self._begin(self._names[self._names.index(name) :])
        while (item := self._ready.get())[0] != name:
            self._slots.release()
        path = item[1]
        if isinstance(path, BaseException):
            with _sentences(self._repository.name, self._repository.commit):
                raise path
        try:
            yield path
        except BaseException as error:
            self._stopped.set()
            self._slots.release()
            if isinstance(error, DataError) and not self._keep:
                path.unlink(missing_ok=True)  # or the next call would find the same
            raise
        if not self._keep:
            path.unlink(missing_ok=True)
        self._slots.release()

    def _begin(self, names: list[str]) -> None:
        self._begun = True
        # The library gives each try a file of its own, and a kill leaves it behind.
        for left in self._folder.glob(".cache/huggingface/download/**/*.incomplete"):
            left.unlink(missing_ok=True)
        # A daemon: the end of the program does not wait for a download.
        threading.Thread(target=self._run, args=(names,), name="download-shards", daemon=True).start()

    def _run(self, names: list[str]) -> None:
        files = self._repository.files
        total = sum(files[name] for name in self._names)
        done = total - sum(files[name] for name in names)
        for name in names:
            self._slots.acquire()
            if self._stopped.is_set():
                return
            try:
                path = _patiently(lambda name=name, done=done: self._get(name, done, total), self._backoff)  # type: ignore[misc]
            except BaseException as error:
                self._ready.put((name, error))
                return
            done += files[name]
            self._progress(done, total)
            self._ready.put((name, path))

    def _get(self, name: str, done: int, total: int) -> Path:
        _configure()
        from huggingface_hub import hf_hub_download

        path = hf_hub_download(
            self._repository.name,
            name,
            repo_type="dataset",
            revision=self._repository.commit,
            local_dir=self._folder,
            tqdm_class=_bar(lambda size: self._progress(done + size, total)),
        )
        return Path(path)


def check_disk(repository: Repository, names: list[str], folder: Path) -> None:
    """Check that a folder has room for files that stay there. Raises: DataError if it has not."""
    there = {name: folder / name for name in names}
    needed = sum(repository.files[name] for name, path in there.items() if not path.is_file())
    cure = "or leave out --downloads: then each is deleted when it has been read"
    require_space(folder, needed, "the shards need", cure)


def _configure() -> None:
    """The library reads these when it is imported."""
    os.environ.setdefault("HF_XET_CHUNK_CACHE_SIZE_BYTES", "0")  # each byte is wanted once
    from huggingface_hub.utils import logging

    logging.get_logger().setLevel("ERROR")  # it tells of each try; here the last one counts


def _bar(progress: Callable[[int], None]) -> Any:
    """What the library takes for a progress bar of tqdm's: a class, made anew for each file."""

    class Bar:
        def __init__(self, *_: Any, total: int | None = None, **__: Any) -> None:
            self.n, self.total = 0, total

        def update(self, size: float | None = 1) -> None:
            self.n += int(size or 0)
            progress(self.n)

        def __enter__(self) -> Bar:
            return self

        def __exit__(self, *_: object) -> None: ...

        def _nothing(self, *_: Any, **__: Any) -> None: ...

        # Of a download by Xet it also tells what came over the network, which may be less.
        update_transfer = set_transfer_postfix_str = set_postfix_str = refresh = close = _nothing

    return Bar


def _patiently(work: Callable[[], T], backoff: float) -> T:
    """The result of `work`, which is tried again while the Hub or the network is in trouble."""
    tries = 0
    while True:
        try:
            return work()
        except Exception as raised:
            error = _cause(raised)
            tries += 1
            if tries == TRIES or not _may_pass(error):
                raise error from None
            wait = min(backoff * 2 ** (tries - 1), MAX_WAIT)
            with suppress(
                AttributeError, KeyError, ValueError
            ):  # not every error has an answer, nor each a time
                wait = max(wait, float(error.response.headers["Retry-After"]))  # type: ignore[attr-defined]
            time.sleep(wait)


def _cause(error: Exception) -> Exception:
    """What the library found when it looked for a file on the Hub, and only says that it is not there."""
    from huggingface_hub.errors import LocalEntryNotFoundError

    if isinstance(error, LocalEntryNotFoundError) and isinstance(error.__cause__, Exception):
        return error.__cause__
    return error


def _may_pass(error: Exception) -> bool:
    """Whether it is worth another try."""
    import httpx2
    from huggingface_hub.errors import FileMetadataError, HfHubHTTPError, OfflineModeIsEnabled

    if isinstance(error, (OfflineModeIsEnabled, FileMetadataError)):
        return False
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 429) or error.response.status_code >= 500
    # The library has no class for a file that is shorter than it should be: an OSError of no number.
    return isinstance(error, httpx2.HTTPError) or (isinstance(error, OSError) and error.errno is None)


@contextmanager
def _sentences(name: str, revision: str | None) -> Iterator[None]:
    """Turns errors of the library into what the user can do."""
    import httpx2
    from huggingface_hub import constants, errors, get_token

    page = f"{constants.ENDPOINT}/datasets/{name}"
    log_in = f"make a token at {constants.ENDPOINT}/settings/tokens and give it as HF_TOKEN or with `hf auth login`"
    again = "what has been prepared is kept, the same command goes on"
    try:
        yield
    except errors.OfflineModeIsEnabled:
        raise DataError(
            f"{name} is to be downloaded, and HF_HUB_OFFLINE forbids that; unset it, or give a folder with its shards"
        ) from None
    except errors.GatedRepoError:
        if get_token() is None:
            raise DataError(
                f"{name} asks for an account: accept its terms at {page}, then {log_in}"
            ) from None
        raise DataError(
            f"the account of your token has no access to {name}: accept its terms at {page}; a fine-grained token also "
            "needs the permission to read public gated repositories"
        ) from None
    except errors.RevisionNotFoundError:
        raise DataError(f"{page} has no revision {revision}; it lists them under Files") from None
    except errors.RepositoryNotFoundError:
        seen = "with your token" if get_token() else f"without a token; if it is private, {log_in}"
        raise DataError(
            f"{name} is neither a folder here nor a data set that can be seen at {page} {seen}"
        ) from None
    except errors.HFValidationError:
        raise DataError(
            f"{name} is neither a folder nor the name of a data set on the Hub, OWNER/NAME"
        ) from None
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403):
            raise DataError(f"{page} answers {status}: your token is not valid for it; {log_in}") from None
        raise DataError(f"{page} cannot be downloaded (the Hub answers {status}); {again}") from None
    except httpx2.HTTPError as error:
        reason = str(error) or type(error).__name__
        raise DataError(f"{page} cannot be downloaded (no connection: {reason}); {again}") from None
    except OSError as error:
        if error.errno is not None:
            raise
        raise DataError(f"{page} cannot be downloaded ({str(error).splitlines()[0]}); {again}") from None
