"""A prepared data set brought from S3, or from any other place, to this machine: in parallel, verified, resumed.

Its manifest comes first, to `.fetching/`, and says what each image must be; it moves to its place last, so the data set
is complete or absent. What is there and right is not fetched again.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from trainer.dataset._addresses import Gone, is_url, shown_url
from trainer.dataset._disk import require_space
from trainer.dataset._filesystems import open_filesystem, why
from trainer.dataset._manifest import DATASET, UNFINISHED, Dataset, image_records, open_dataset, read_metadata
from trainer.dataset._names import shown
from trainer.errors import DataError, first_line
from trainer.files import file_lock, sync_folder
from trainer.processes import safe_path

FETCHING = ".fetching"  # the folder of a fetch that has not ended
IN_FLIGHT = 64  # objects of one request; each thread has so many on their way
THREADS = 2  # of a process: one writes while the other waits for the network
BATCH = 1024  # images that a process takes at once
TRIES = 4
BACKOFF = 0.5  # seconds after the first failed try, doubled after each

Progress = Callable[[int, int], None]  # called with the bytes of images that are there, and of all


class Fetched(NamedTuple):
    """A data set that is complete on disk."""

    metadata: Mapping[str, Any]  # content of dataset.json
    made: bool  # by this call
    images: int = 0  # that were fetched by this call …
    bytes: int = 0  # … and their bytes


class Wanted(NamedTuple):
    """One image as it must be."""

    path: str  # below the data set's folder
    bytes: int
    crc32: int


def fetch_dataset(
    source: str, out: Path, *, workers: int | None = None, progress: Progress = lambda done, total: None
) -> Fetched:
    """Bring the data set that `source` holds to `out`; resume an interrupted call; do nothing if it is complete.

    Args:
        source: folder or address, such as s3://BUCKET/imagenet, of a folder that `trainer prepare` has written.
        out: a new or empty folder, or the folder of an interrupted call.
        workers: number of processes; by default one a core.
        progress: called with the bytes of images that are there, and of all.

    Raises: DataError if there is no data set, an image of it is missing or is not what its manifest says, `out` holds
        something else, or the disk is too small; the same call goes on when that is mended.
    """
    unfinished = out / FETCHING
    try:
        manifest = _read(source, DATASET)
        present = read_metadata(out)
        if present is None:
            _check_new(out)
        unfinished.mkdir(parents=True, exist_ok=True)
        held = DataError(f"another `trainer fetch` is at work in {out}; wait until it ends")
        with file_lock(unfinished / "lock", timeout=0, otherwise=held):
            dataset = _open_manifest(source, manifest, unfinished, present)
            if dataset is None and present is not None:
                fetched = Fetched(present, made=False)
            else:
                assert dataset is not None
                images, size = _bring_images(source, dataset, out, workers, progress)
                os.sync()
                for path in (unfinished / f"index-{dataset.digest[:16]}.npy", unfinished / DATASET):
                    os.replace(path, out / path.name)
                    sync_folder(out)
                fetched = Fetched(dataset.metadata, True, images, size)
        shutil.rmtree(unfinished, ignore_errors=True)
        return fetched
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"the disk of {out} is full; nothing is lost: free some space and start the same command again"
            ) from None
        raise DataError(f"{error.filename or out} cannot be used: {error.strerror or error}") from None


def _check_new(out: Path) -> None:
    if not out.exists() or (out / FETCHING).exists():
        return
    if (out / UNFINISHED).exists():
        raise DataError(
            f"{out} holds a preparation that has not ended; give a new or empty folder with --out"
        )
    if any(path.name != "lost+found" for path in out.iterdir()):
        raise DataError(f"{out} is not empty and holds no data set; give a new or empty folder with --out")


def _open_manifest(
    source: str, manifest: bytes, unfinished: Path, present: Mapping[str, Any] | None
) -> Dataset | None:
    """The data set whose images are wanted; None if it is present."""
    before = read_metadata(unfinished)
    (unfinished / DATASET).write_bytes(manifest)
    metadata = read_metadata(unfinished)
    assert metadata is not None
    for other in (present, before):
        if other is not None and other["digest"] != metadata["digest"]:
            raise DataError(
                f"{unfinished.parent} has images of the data set {other['name']} ({other['digest'][:16]}), and "
                f"{_shown(source)} holds {metadata['name']} ({metadata['digest'][:16]}); give a new or empty folder "
                "with --out"
            )
    if present is not None:
        return None
    index = f"index-{metadata['digest'][:16]}.npy"
    (unfinished / index).write_bytes(_read(source, index))
    return open_dataset(unfinished)


def _bring_images(
    source: str, dataset: Dataset, out: Path, workers: int | None, progress: Progress
) -> tuple[int, int]:
    """Fetch what is missing in `out`. Returns: how many images, and their bytes."""
    images = [Wanted(image.path, image.bytes, image.crc32) for image in image_records(dataset)]
    for image in images:
        if "/" not in image.path or image.path.startswith((".", DATASET)):
            raise DataError(f"{_shown(source)}: {shown(image.path)} is no name for an image of a data set")
    _check_space(images, out)
    for folder in {os.path.dirname(image.path) for image in images}:
        (out / folder).mkdir(parents=True, exist_ok=True)
    fetched = size = done = 0
    total = sum(image.bytes for image in images)
    for batch, (count, brought) in _in_processes(partial(_fetch_batch, source, str(out)), images, workers):
        fetched, size, done = fetched + count, size + brought, done + sum(image.bytes for image in batch)
        progress(done, total)
    return fetched, size


def _check_space(images: Sequence[Wanted], out: Path) -> None:
    """Better now than after an hour."""
    needed = sum(image.bytes for image in images)
    for image in images:
        try:
            needed -= min(image.bytes, os.stat(out / image.path).st_size)
        except FileNotFoundError:
            continue
    require_space(out, needed, "the images need", "or use another --out")


_Counts = tuple[int, int]  # images and their bytes


def _in_processes(
    work: Callable[[Sequence[Wanted]], _Counts], images: Sequence[Wanted], workers: int | None
) -> Iterator[tuple[Sequence[Wanted], _Counts]]:
    """Do the work on batches of the images: asking for an object costs a core one to two milliseconds."""
    batches = [images[start : start + BATCH] for start in range(0, len(images), BATCH)]
    processes = min(workers or len(os.sched_getaffinity(0)), len(batches))
    if processes == 1:
        yield from zip(batches, map(work, batches), strict=True)
        return
    before = dict(os.environ)
    os.environ.update(safe_path())  # which its processes begin with
    spawn = multiprocessing.get_context("spawn")  # the library's threads do not survive a fork
    with ProcessPoolExecutor(processes, mp_context=spawn, initializer=_begin_process) as pool:
        try:
            yield from zip(batches, pool.map(work, batches), strict=True)
        except BrokenProcessPool:
            raise DataError(
                "one of the processes was killed, perhaps because memory ran out; the same command goes on, with "
                "less memory if --workers is smaller"
            ) from None
        finally:
            pool.shutdown(cancel_futures=True)
            os.environ.clear()
            os.environ.update(before)


def _begin_process() -> None:
    """The parent alone answers Ctrl-C; and it is not outlived."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()


def _fetch_batch(source: str, out: str, images: Sequence[Wanted]) -> _Counts:
    missing = [image for image in images if not _is_there(out, image)]
    parts = [missing[start : start + IN_FLIGHT] for start in range(0, len(missing), IN_FLIGHT)]
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(partial(_fetch_part, source, out), parts):
            pass
    return len(missing), sum(image.bytes for image in missing)


def _is_there(out: str, image: Wanted) -> bool:
    try:
        with open(f"{out}/{image.path}", "rb") as file:
            return os.fstat(file.fileno()).st_size == image.bytes and zlib.crc32(file.read()) == image.crc32
    except OSError:
        return False


def _fetch_part(source: str, out: str, images: Sequence[Wanted]) -> None:
    files, root = _opened(source)
    for number in range(TRIES):
        # A byte more than there should be: a longer object is another one.
        found = files.cat_ranges(
            [_below(source, root, image.path) for image in images],
            [0] * len(images),
            [image.bytes + 1 for image in images],
            on_error="return",
        )
        failed = []
        for image, data in zip(images, found, strict=True):
            if isinstance(data, Exception):
                failed.append(image)
                if number == TRIES - 1 or isinstance(data, FileNotFoundError | PermissionError):
                    raise DataError(_refusal(source, image.path, data))
            elif len(data) != image.bytes or zlib.crc32(data) != image.crc32:
                raise DataError(
                    f"{_shown(source)}: {shown(image.path)} is not what the manifest says: it has {len(data):,} of "
                    f"{image.bytes:,} bytes, or others; write the data set there anew"
                )
            else:
                _write(f"{out}/{image.path}", data)
        if not failed:
            return
        images = failed
        time.sleep(BACKOFF * 2**number)


def _write(path: str, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    file = os.open(path, flags, 0o644)
    try:
        if os.write(file, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path)
    finally:
        os.close(file)


@cache
def _opened(source: str) -> tuple[Any, str]:
    try:
        return open_filesystem(source, in_flight=IN_FLIGHT * THREADS)
    except Gone as error:
        raise DataError(str(error)) from None


def _below(source: str, root: str, path: str) -> str:
    by_http = source.startswith(("http://", "https://"))
    return f"{root.rstrip('/')}/{quote(path) if by_http else path}"


def _read(source: str, name: str) -> bytes:
    """A file of the manifest."""
    files, root = _opened(source)
    try:
        return bytes(files.cat_file(_below(source, root, name)))
    except FileNotFoundError as error:
        if "bucket does not exist" in str(error):
            raise DataError(_refusal(source, name, error)) from None
        raise DataError(
            f"{_shown(source)} holds no data set, for there is no {name}: give the folder that `trainer prepare` has "
            "written, or where all of it was copied to"
        ) from None
    except Exception as error:
        raise DataError(_refusal(source, name, error)) from None


def _refusal(source: str, name: str, error: Exception) -> str:
    if not is_url(source):
        return f"{source}/{shown(name)} cannot be read ({first_line(error)})"
    return why(f"{source.rstrip('/')}/{name}", error)


def _shown(source: str) -> str:
    return shown_url(source) if is_url(source) else source
