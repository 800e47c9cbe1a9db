"""From a source of images to a data set on disk: one pass, several writer threads.

The resume log keeps what has been written, so a preparation that was interrupted at any moment goes on where it was
and ends in the same manifest. The manifest is written last: without it there is no data set. Nothing else is
written twice or thrown away; a class tar never touches the disk.
"""

from __future__ import annotations

import errno
import os
import shutil
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from trainer.dataset._checksums import Checksums
from trainer.dataset._images import Resize, image_size
from trainer.dataset._manifest import (
    UNFINISHED,
    ImageRecord,
    Skipped,
    describe_options,
    read_metadata,
    write_manifest,
)
from trainer.dataset._resume_log import ResumeLog
from trainer.dataset._source import Source, SourceImage
from trainer.errors import DataError

CHUNK = 4 * 2**20  # bytes that a writer thread takes at once, …
CHUNK_IMAGES = 64  # … and images

Progress = Callable[[int], None]  # called with the bytes processed since the last call


@dataclass(frozen=True)
class Prepared:
    """A data set that is complete on disk."""

    metadata: Mapping[str, Any]  # content of dataset.json
    made: bool  # by this call
    resumed: int  # images that an earlier call had written


def prepare(
    source: Source,
    out: Path,
    *,
    resize: Resize | None = None,
    workers: int | None = None,
    progress: Progress = lambda _: None,
) -> Prepared:
    """Write the data set `source` to `out`; resume an interrupted call; do nothing if it is complete.

    Args:
        source: images, name and expected checksums of the data set.
        out: a new or empty folder, or the folder of an interrupted call.
        resize: store large images smaller.
        workers: number of writer threads; by default one a core.
        progress: called with the bytes processed since the last call.

    Raises: DataError if `out` holds something else, an archive is damaged or not the published one, or
        the disk is full; the same call goes on when that is mended.
    """
    options = _all_options(source.options, resize)
    try:
        if (metadata := find_complete(out, source.name, source.options, resize)) is not None:
            return Prepared(metadata, made=False, resumed=0)
        out.mkdir(parents=True, exist_ok=True)
        if not source.in_place:
            check_new(out)
        with ResumeLog(source, out, options) as log:
            _check_space(source, out, log, resize)
            checksums = Checksums(source.archives)
            try:
                _write(source, out, log, resize, workers or os.cpu_count() or 1, progress)
                md5 = checksums.wait()
            finally:
                checksums.stop()
            os.sync()
            metadata = write_manifest(
                out,
                log.images.values(),
                log.skipped,
                metadata={
                    "name": source.name,
                    "options": options,
                    "archives": {path.name: md5.get(path) for path in source.archives},
                    "published": source.published and [source.published.train, source.published.val],
                },
                class_names=source.class_names(),
            )
        shutil.rmtree(out / UNFINISHED)
        return Prepared(metadata, made=True, resumed=log.resumed)
    except DataError:
        if source.in_place:  # reading it again is quick, and the folder is not ours
            shutil.rmtree(out / UNFINISHED, ignore_errors=True)
        raise
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"the disk of {out} is full; nothing is lost: free some space and start the same command again"
            ) from None
        raise DataError(f"{error.filename or out} cannot be used: {error.strerror or error}") from None


def check_new(out: Path) -> None:
    """Check that a preparation would not mingle with other files. A new volume has a folder `lost+found`.

    Raises: DataError if `out` has other files, and neither a data set nor an unfinished one.
    """
    if not out.exists() or (out / UNFINISHED).exists() or read_metadata(out) is not None:
        return
    if any(path.name != "lost+found" for path in out.iterdir()):
        raise DataError(f"{out} is not empty and holds no data set; give a new or empty folder with --out")


def find_complete(
    out: Path, name: str, options: Mapping[str, Any], resize: Resize | None
) -> Mapping[str, Any] | None:
    """Content of `dataset.json` if a data set is complete in `out`; else None.

    Args:
        out: path of the data set.
        name: name of the data set.
        options: options of its source.
        resize: how its large images were stored smaller.

    Raises: DataError if another data set is there.
    """
    options = _all_options(options, resize)
    metadata = read_metadata(out)
    if metadata is None:
        return None
    if (metadata.get("name"), metadata.get("options")) != (name, options):
        raise DataError(
            f"{out} already holds the data set {metadata.get('name')} "
            f"({describe_options(metadata.get('options'))}), not {name} ({describe_options(options)}); "
            "give another folder with --out"
        )
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    return metadata


def _all_options(options: Mapping[str, Any], resize: Resize | None) -> dict[str, Any]:
    """The options that dataset.json records."""
    return {**options, **(asdict(resize) if resize else {})}


def _check_space(source: Source, out: Path, log: ResumeLog, resize: Resize | None) -> None:
    """Better now than after hours. The size of smaller copies is not known beforehand."""
    if source.in_place or resize:
        return
    needed = source.bytes - sum(image.bytes for image in log.images.values())
    free = shutil.disk_usage(out).free
    if needed > free:
        raise DataError(
            f"the images need about {needed / 1e9:,.1f} GB more, and the disk of {out} has {free / 1e9:,.1f} GB "
            "free; free some, use another --out, or store the images smaller with --shorter-side 352"
        )


def _write(
    source: Source,
    out: Path,
    log: ResumeLog,
    resize: Resize | None,
    workers: int,
    progress: Progress,
) -> None:
    """Hand chunks of images to the writer threads, and log what they wrote, in order."""
    pending: deque[tuple[int, Future[list[ImageRecord | Skipped]]]] = deque()
    made: set[str] = set()

    def log_first() -> None:
        size, written = pending.popleft()
        try:
            log.add(written.result())
        finally:
            del written  # an error in it would hold this frame, and with it the open archives
        progress(size)

    with ThreadPoolExecutor(workers, thread_name_prefix="write-images") as pool:
        try:
            for chunk in _chunks(_missing_images(source, log, resize, progress)):
                if not source.in_place:
                    for folder in {os.path.dirname(image.path) for image in chunk} - made:
                        (out / folder).mkdir(parents=True, exist_ok=True)
                        made.add(folder)
                work = pool.submit(_write_chunk, chunk, None if source.in_place else out, resize)
                pending.append((sum(image.size for image in chunk), work))
                while len(pending) > 2 * workers or (pending and pending[0][1].done()):
                    log_first()
            while pending:
                log_first()
        except BaseException:
            for _, work in pending:
                work.cancel()
            # What the threads have begun is finished and logged: the next call need not write it again.
            for _, work in takewhile(
                lambda one: not one[1].cancelled() and one[1].exception() is None, pending
            ):
                log.add(work.result())
            raise


def _missing_images(
    source: Source, log: ResumeLog, resize: Resize | None, progress: Progress
) -> Iterator[SourceImage]:
    """Images that have not been written yet. Logged images that a user's folder no longer has are forgotten."""
    seen: set[str] = set()
    skipped = {one.path for one in log.skipped}
    for image in source.images():
        if image.path in seen:
            raise DataError(f"the source has {image.path} twice; this is not the published archive")
        seen.add(image.path)
        if isinstance(image, Skipped):
            if image.path not in skipped:
                log.add([image])
        elif image.path in skipped or log.has(image, resize):
            progress(image.size)
        else:
            yield image
    log.forget(set(log.images) - seen)


def _chunks(images: Iterable[SourceImage]) -> Iterator[list[SourceImage]]:
    chunk: list[SourceImage] = []
    size = 0
    for image in images:
        chunk.append(image)
        size += image.size
        if size >= CHUNK or len(chunk) >= CHUNK_IMAGES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _write_chunk(
    chunk: list[SourceImage], out: Path | None, resize: Resize | None
) -> list[ImageRecord | Skipped]:
    return [_write_image(image, out, resize) for image in chunk]


def _write_image(image: SourceImage, out: Path | None, resize: Resize | None) -> ImageRecord | Skipped:
    """Write one image to `out`, or only look at it where `out` is None."""
    try:
        data = image.read()
    except OSError as error:
        return Skipped(image.path, f"cannot be read: {error.strerror}")
    size = image_size(data)
    if isinstance(size, str):
        return Skipped(image.path, size)
    if resize and resize.applies_to(size):
        try:
            data, size = resize.apply(data)
        except (OSError, SyntaxError, ValueError) as error:
            return Skipped(image.path, f"cannot be decoded: {error}")
    if out is not None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(f"{out}/{image.path}", flags, 0o644)
        try:
            if os.write(file, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), image.path)
        finally:
            os.close(file)
    return ImageRecord(image.split, image.class_id, image.path, len(data), *size, zlib.crc32(data))
