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
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

from trainer.dataset._changes import find_changes
from trainer.dataset._checksums import Checksums
from trainer.dataset._disk import require_space
from trainer.dataset._images import Resize, image_size
from trainer.dataset._manifest import (
    UNFINISHED,
    ImageRecord,
    Skipped,
    describe_options,
    read_metadata,
    write_manifest,
)
from trainer.dataset._missing import End, Missing
from trainer.dataset._resume_log import ResumeLog
from trainer.dataset._source import Source, SourceImage
from trainer.errors import DataError

Progress = Callable[[int], None]  # called with the bytes processed since the last call


@dataclass(frozen=True)
class Prepared:
    """A data set that is complete on disk."""

    metadata: Mapping[str, Any]  # content of dataset.json
    made: bool  # by this call
    resumed: int = 0  # images that an interrupted call had written
    added: int = 0  # images that are new or changed since the data set was prepared before
    removed: int = 0  # images that are no more


def prepare(
    source: Source,
    out: Path,
    *,
    resize: Resize | None = None,
    workers: int | None = None,
    progress: Progress = lambda _: None,
) -> Prepared:
    """Write the data set `source` to `out`; resume an interrupted call; do nothing if it is complete.

    A user's own folder is compared with the manifest, which is written anew if images were added, changed or removed.

    Args:
        source: images, name and expected checksums of the data set.
        out: a new or empty folder, or the folder of an interrupted call.
        resize: store large images smaller.
        workers: number of writer threads; by default one a core.
        progress: called with the bytes processed since the last call.

    Raises: DataError if `out` holds something else, an archive is damaged or not the published one, or
        the disk is full; the same call goes on when that is mended. Also if a class has no usable image.
    """
    options = _all_options(source.options, resize)
    try:
        changes = find_changes(source, out, resize)
        name = source.name
        if changes is not None and not changes and not source.name_given:  # the same images in another folder
            name = str((read_metadata(out) or {}).get("name"))
        if (metadata := _read_complete(out, name, options)) is not None and not changes:
            shutil.rmtree(out / UNFINISHED, ignore_errors=True)
            return Prepared(metadata, made=False)
        out.mkdir(parents=True, exist_ok=True)
        if not source.in_place or source.places.root:
            check_new(out)
        with ResumeLog(source, out, options, changes) as log:
            _check_space(source, out, log, resize)
            checksums = Checksums(source.archives)
            missing = Missing(
                source,
                log,
                resize,
                record=lambda image: _write_image(image, None, resize, os.O_EXCL),
                progress=progress,
            )
            try:
                _write(missing, log, None if source.in_place else out, resize, workers, progress)
                missing.check()
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
                    "archives": {path.name: md5.get(path) for path in source.archives}
                    | dict.fromkeys(source.shards),
                    "published": source.published and [source.published.train, source.published.val],
                    "ignored": missing.ignored.result(),
                    **({"images": entry} if (entry := source.places.entry()) else {}),
                },
                class_names=source.class_names(),
                class_ids=missing.class_ids | set(source.class_ids),
                origin=_origin(source, out),
            )
        shutil.rmtree(out / UNFINISHED, ignore_errors=True)
        if changes is not None:
            return Prepared(metadata, made=True, added=changes.added, removed=len(changes.removed))
        return Prepared(metadata, made=True, resumed=log.resumed)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DataError(
                f"the disk of {out} is full; nothing is lost: free some space and start the same command again"
            ) from None
        cure = ""
        if source.in_place and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            cure = "; name a folder that can be written, for the manifest with --manifest or for a copy with --out"
        raise DataError(f"{error.filename or out} cannot be used: {error.strerror or error}{cure}") from None


def check_new(out: Path) -> None:
    """Check that a preparation would not mingle with other files. A new volume has a folder `lost+found`.

    Raises: DataError if `out` has other files, and neither a data set nor an unfinished one.
    """
    if not out.exists() or (out / UNFINISHED).exists() or read_metadata(out) is not None:
        return
    if any(path.name != "lost+found" for path in out.iterdir()):
        raise DataError(f"{out} is not empty and holds no data set; give a new or empty folder")


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
    metadata = _read_complete(out, name, _all_options(options, resize))
    if metadata is not None:
        shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    return metadata


def _read_complete(out: Path, name: str, options: Mapping[str, Any]) -> Mapping[str, Any] | None:
    metadata = read_metadata(out)
    if metadata is not None and (metadata.get("name"), metadata.get("options")) != (name, options):
        raise DataError(
            f"{out} already holds the data set {metadata.get('name')} "
            f"({describe_options(metadata.get('options'))}), not {name} ({describe_options(options)}); "
            "give another folder with --out"
        )
    return metadata


def _origin(source: Source, out: Path) -> str:
    """Where the images come from, for a message."""
    return source.origin or ", ".join(map(str, source.archives)) or str(out)


def _all_options(options: Mapping[str, Any], resize: Resize | None) -> dict[str, Any]:
    """The options that dataset.json records."""
    return {**options, **(asdict(resize) if resize else {})}


def _check_space(source: Source, out: Path, log: ResumeLog, resize: Resize | None) -> None:
    """Better now than after hours. The size of smaller copies is not known beforehand."""
    if source.in_place:
        return
    images = 0 if resize else source.bytes - sum(image.bytes for image in log.images.values())
    cure = "use another --out, or store the images smaller with --shorter-side 352"
    require_space(out, images + source.spare, "the images need about", cure)


def _write(
    missing: Missing,
    log: ResumeLog,
    out: Path | None,
    resize: Resize | None,
    workers: int | None,
    progress: Progress,
) -> None:
    """Hand chunks of images to the writer threads, and log what they wrote, in order. `out`: None if in place."""
    workers = workers or os.cpu_count() or 1
    pending: deque[tuple[int, End | None, Future[list[ImageRecord | Skipped]]]] = deque()
    made: set[str] = set()
    # What an interrupted change has left may be written over; else nothing is.
    mode = os.O_EXCL if log.fresh else os.O_TRUNC

    def log_first() -> None:
        size, end, written = pending.popleft()
        try:
            log.add(written.result())
        finally:
            del written  # an error in it would hold this frame, and with it the open archives
        if end is not None:
            missing.check_repeats()
            log.end_part(end.name, end.ignored.result())
        progress(size)

    with ThreadPoolExecutor(workers, thread_name_prefix="write-images") as pool:
        try:
            for chunk in missing.chunks():
                if out is not None:
                    for folder in {os.path.dirname(image.path) for image in chunk.images} - made:
                        (out / folder).mkdir(parents=True, exist_ok=True)
                        made.add(folder)
                if chunk.images:
                    work = pool.submit(_write_chunk, chunk.images, out, resize, mode)
                else:  # the end of a part, which is to be logged whatever happens
                    work = Future()
                    work.set_result([])
                pending.append((sum(image.size for image in chunk.images), chunk.end, work))
                while len(pending) > 2 * workers or (pending and pending[0][-1].done()):
                    log_first()
            while pending:
                log_first()
        except BaseException:
            for *_, work in pending:
                work.cancel()
            # What the threads have begun is finished and logged: the next call need not write it again.
            for _, end, work in takewhile(
                lambda one: not one[-1].cancelled() and one[-1].exception() is None, pending
            ):
                log.add(work.result())
                if end is not None:
                    with suppress(DataError):  # it is for the next call then
                        missing.check_repeats()
                        log.end_part(end.name, end.ignored.result())
            raise


def _write_chunk(
    chunk: list[SourceImage], out: Path | None, resize: Resize | None, mode: int
) -> list[ImageRecord | Skipped]:
    return [_write_image(image, out, resize, mode) for image in chunk]


def _write_image(
    image: SourceImage, out: Path | None, resize: Resize | None, mode: int
) -> ImageRecord | Skipped:
    """Write one image to `out`, or only look at it where `out` is None. `mode`: os.O_EXCL or os.O_TRUNC."""
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
        flags = os.O_WRONLY | os.O_CREAT | mode | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(f"{out}/{image.path}", flags, 0o644)
        try:
            if os.write(file, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), image.path)
        finally:
            os.close(file)
    return ImageRecord(image.split, image.class_id, image.path, len(data), *size, zlib.crc32(data))
