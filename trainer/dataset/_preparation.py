"""From pictures, wherever they come from, to a data set on disk: one pass, several workers.

What has been written is noted in `.preparing/rows.tsv`, so a preparation that was cut off at any moment
goes on where it was and ends in the same manifest. The manifest is written last: without it there is
no data set. Nothing else is written twice or thrown away; a class tar never touches the disk.
"""

from __future__ import annotations

import errno
import hashlib
import io
import json
import os
import shutil
import threading
import warnings
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple, cast

import simplejpeg

from trainer.dataset._archives import Data
from trainer.dataset._manifest import (
    SPLITS,
    UNFINISHED,
    ImageRecord,
    Part,
    Skipped,
    read_about,
    write_manifest,
)
from trainer.dataset._published import Published
from trainer.errors import DataError
from trainer.files import file_lock, write_json

CHUNK = 4 * 2**20  # bytes a writer takes at once, …
CHUNK_IMAGES = 64  # … and images
DURABLE = 2**30  # bytes between two waits for the disk; so much is read again after an interruption
RESERVE = 2**17  # bytes held back on the disk, for the notes when it is full
MOST_PIXELS = 100_000_000  # ImageNet's largest image has 61 million
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n")

Progress = Callable[[int], None]  # takes the bytes that were dealt with since the last call


class SourceImage(NamedTuple):
    """An image that shall be in the data set."""

    part: Part
    group: str  # its class
    path: str  # where it will be below the data set's folder
    size: int  # bytes, before any reduction
    read: Callable[[], Data]  # for any thread


@dataclass(frozen=True)
class Source:
    """Where the pictures of a data set come from."""

    name: str  # of the data set
    pictures: Callable[[], Iterator[SourceImage | Skipped]]  # in the same order each time
    bytes: int  # about as many as the pictures have
    options: Mapping[str, Any] = field(default_factory=dict)  # what else decides the outcome
    sums: Mapping[Path, str | None] = field(default_factory=dict)  # archives, and their MD5 if it is known
    published: Published | None = None  # what should come out
    class_names: Callable[[], Mapping[str, str]] = dict  # asked for when all pictures have been read
    in_place: bool = False  # the pictures are in the data set's folder already


@dataclass(frozen=True)
class Resize:
    """Store larger images smaller."""

    shorter_side: int  # pixels of the shorter side; images up to that stay as they are
    quality: int = 90  # of the JPEG, 1 to 95


@dataclass(frozen=True)
class Prepared:
    """A data set that is complete on disk."""

    about: Mapping[str, Any]  # the content of dataset.json
    made: bool  # by this call
    resumed: int  # images that an earlier call had written


def prepare(
    source: Source,
    out: Path,
    *,
    reduction: Resize | None = None,
    workers: int | None = None,
    progress: Progress = lambda _: None,
) -> Prepared:
    """Write the data set `source` to `out`; go on if an earlier call was cut off; do nothing if it is there.

    Args:
        source: the pictures.
        out: a new or empty folder, or one that an earlier call was interrupted in.
        reduction: store larger images smaller.
        workers: threads that write; by default as many as processors.
        progress: is told of the bytes dealt with.

    Raises: DataError if `out` holds something else, an archive is damaged or not the published one, or
        the disk is full; the same call goes on when that is mended.
    """
    options = {**source.options, **(asdict(reduction) if reduction else {})}
    try:
        if (about := find_complete(out, source.name, options)) is not None:
            return Prepared(about, made=False, resumed=0)
        out.mkdir(parents=True, exist_ok=True)
        if not source.in_place:
            check_new(out)
        with _Notes(source, out, options) as notes:
            _check_room(source, out, notes, reduction)
            sums = _Sums(source.sums)
            try:
                _write(source, out, notes, reduction, workers or os.cpu_count() or 1, progress)
                found = sums.wait()
            finally:
                sums.stop()
            os.sync()
            about = write_manifest(
                out,
                notes.images.values(),
                notes.left_out,
                about={
                    "name": source.name,
                    "options": options,
                    "archives": {path.name: found.get(path) for path in source.sums},
                    "published": source.published and [source.published.train, source.published.val],
                },
                class_names=source.class_names(),
            )
        shutil.rmtree(out / UNFINISHED)
        return Prepared(about, made=True, resumed=notes.resumed)
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
    """A preparation must not mingle with what is there. A new volume has a folder `lost+found`.

    Raises: DataError if `out` has other files, and neither a data set nor an unfinished one.
    """
    if not out.exists() or (out / UNFINISHED).exists() or read_about(out) is not None:
        return
    if any(path.name != "lost+found" for path in out.iterdir()):
        raise DataError(f"{out} is not empty and holds no data set; give a new or empty folder with --out")


def find_complete(out: Path, name: str, options: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """What `dataset.json` tells if the data set `name`, made with `options`, is complete in `out`; else None.

    Raises: DataError if another data set is there.
    """
    about = read_about(out)
    if about is None:
        return None
    if (about.get("name"), about.get("options")) != (name, options):
        raise DataError(
            f"{out} already holds the data set {about.get('name')} ({_told(about.get('options'))}), not "
            f"{name} ({_told(options)}); give another folder with --out"
        )
    shutil.rmtree(out / UNFINISHED, ignore_errors=True)
    return about


def _told(options: Mapping[str, Any] | None) -> str:
    return ", ".join(f"{key} {value}" for key, value in (options or {}).items()) or "as it is"


def _check_room(source: Source, out: Path, notes: _Notes, reduction: Resize | None) -> None:
    """Better now than after hours. How small reduced images will be, nobody knows beforehand."""
    if source.in_place or reduction:
        return
    needed = source.bytes - sum(image.bytes for image in notes.images.values())
    free = shutil.disk_usage(out).free
    if needed > free:
        raise DataError(
            f"the images need about {needed / 1e9:,.1f} GB more, and the disk of {out} has {free / 1e9:,.1f} GB "
            "free; free some, use another --out, or store the images smaller with --shorter-side 352"
        )


def _write(
    source: Source,
    out: Path,
    notes: _Notes,
    reduction: Resize | None,
    workers: int,
    progress: Progress,
) -> None:
    """Hand chunks of pictures to the workers and note what they wrote, in order."""
    pending: deque[tuple[int, Future[list[ImageRecord | Skipped]]]] = deque()
    made: set[str] = set()

    def note_first() -> None:
        size, written = pending.popleft()
        try:
            notes.add(written.result())
        finally:
            del written  # an error in it would hold this frame, and with it the open archives
        progress(size)

    with ThreadPoolExecutor(workers, thread_name_prefix="write-images") as pool:
        try:
            for chunk in _chunks(_new_pictures(source, notes, reduction, progress)):
                if not source.in_place:
                    for folder in {os.path.dirname(picture.path) for picture in chunk} - made:
                        (out / folder).mkdir(parents=True, exist_ok=True)
                        made.add(folder)
                work = pool.submit(_write_chunk, chunk, None if source.in_place else out, reduction)
                pending.append((sum(picture.size for picture in chunk), work))
                while len(pending) > 2 * workers or (pending and pending[0][1].done()):
                    note_first()
            while pending:
                note_first()
        except BaseException:
            for _, work in pending:
                work.cancel()
            # What the workers have in hand is finished and noted: it need not be done again.
            for _, work in takewhile(
                lambda one: not one[1].cancelled() and one[1].exception() is None, pending
            ):
                notes.add(work.result())
            raise


def _new_pictures(
    source: Source, notes: _Notes, reduction: Resize | None, progress: Progress
) -> Iterator[SourceImage]:
    """The pictures that have not been written yet. What a user's folder no longer has is forgotten."""
    seen: set[str] = set()
    left_out = {one.path for one in notes.left_out}
    for picture in source.pictures():
        if picture.path in seen:
            raise DataError(f"the source has {picture.path} twice; this is not the published archive")
        seen.add(picture.path)
        if isinstance(picture, Skipped):
            if picture.path not in left_out:
                notes.add([picture])
        elif picture.path in left_out or notes.has(picture, reduction):
            progress(picture.size)
        else:
            yield picture
    notes.forget(set(notes.images) - seen)


def _chunks(pictures: Iterable[SourceImage]) -> Iterator[list[SourceImage]]:
    chunk: list[SourceImage] = []
    size = 0
    for picture in pictures:
        chunk.append(picture)
        size += picture.size
        if size >= CHUNK or len(chunk) >= CHUNK_IMAGES:
            yield chunk
            chunk, size = [], 0
    if chunk:
        yield chunk


def _write_chunk(
    chunk: list[SourceImage], out: Path | None, reduction: Resize | None
) -> list[ImageRecord | Skipped]:
    return [_write_picture(picture, out, reduction) for picture in chunk]


def _write_picture(picture: SourceImage, out: Path | None, reduction: Resize | None) -> ImageRecord | Skipped:
    try:
        data = picture.read()
    except OSError as error:
        return Skipped(picture.path, f"cannot be read: {error.strerror}")
    size = image_size(data)
    if isinstance(size, str):
        return Skipped(picture.path, size)
    if reduction and min(size) > reduction.shorter_side:
        try:
            data, size = _reduce(data, reduction)
        except (OSError, SyntaxError, ValueError) as error:
            return Skipped(picture.path, f"cannot be decoded: {error}")
    if out is not None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        file = os.open(f"{out}/{picture.path}", flags, 0o644)
        try:
            if os.write(file, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), picture.path)
        finally:
            os.close(file)
    return ImageRecord(picture.part, picture.group, picture.path, len(data), *size, zlib.crc32(data))


def image_size(data: Data) -> tuple[int, int] | str:
    """Width and height of a JPEG or PNG in pixels, from its header; or why it is no usable image."""
    if not data:
        return "is empty"
    if not bytes(data[:8]).startswith(SIGNATURES):
        return "is neither a JPEG nor a PNG"
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
    except ValueError:  # a PNG, or a JPEG too strange for that
        width, height = _size_by_pillow(data)
    if width < 1 or height < 1:
        return "has no size in its header"
    if width * height > MOST_PIXELS or max(width, height) > 65_535:
        return f"claims {width} x {height} pixels; a bomb, or no photo to train on"
    return width, height


def _size_by_pillow(data: Data) -> tuple[int, int]:
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a bomb: its size is looked at next
            with Image.open(io.BytesIO(data)) as image:
                return image.size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return 0, 0


def _reduce(data: Data, reduction: Resize) -> tuple[Data, tuple[int, int]]:
    """Shrink a JPEG to the shorter side asked for. CMYK and other rarities stay as they are."""
    from PIL import Image

    with Image.open(io.BytesIO(data)) as image:
        if image.format != "JPEG" or image.mode not in ("RGB", "L"):
            return data, image.size
        scale = reduction.shorter_side / min(image.size)
        size = (round(image.width * scale), round(image.height * scale))
        image.draft(None, size)  # libjpeg decodes to a half, a quarter or an eighth at once
        small = io.BytesIO()
        image.resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0).save(
            small, "JPEG", quality=reduction.quality
        )
    return small.getvalue(), size


class _Notes:
    """What has been written so far, in memory and in `.preparing/rows.tsv`."""

    def __init__(self, source: Source, out: Path, options: Mapping[str, Any]) -> None:
        self._out, self._folder = out, out / UNFINISHED
        self._reserve = self._folder / "reserve"
        self._in_place = source.in_place
        self._what = {
            "name": source.name,
            "options": dict(options),
            "archives": {path.name: path.stat().st_size for path in source.sums},
        }
        self.images: dict[str, ImageRecord] = {}
        self.left_out: list[Skipped] = []
        self.resumed = 0

    def __enter__(self) -> _Notes:
        self._folder.mkdir(exist_ok=True)
        taken = DataError(f"another `trainer prepare` is at work in {self._out}; wait for it")
        with ExitStack() as held:
            held.enter_context(file_lock(self._folder / "lock", timeout=0, otherwise=taken))
            self._same_as_before()
            self._file = os.open(self._folder / "rows.tsv", os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
            held.callback(os.close, self._file)
            self._reserve.write_bytes(bytes(RESERVE))
            self._disk = held.enter_context(ThreadPoolExecutor(1, thread_name_prefix="wait-for-disk"))
            self._synced: Future[None] | None = None
            self._position = 0  # of the notes when that wait was begun
            self._since = 0  # bytes of images since the last wait for the disk was begun
            self._take_up()
            self._held = held.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._held.close()

    def add(self, written: Iterable[ImageRecord | Skipped]) -> None:
        lines = []
        for one in written:
            self._remember(one)
            fields = one if isinstance(one, ImageRecord) else ("-", *one)
            lines.append("\t".join(map(str, fields)) + "\n")
            self._since += one.bytes if isinstance(one, ImageRecord) else 0
        self._append("".join(lines))
        self._note_durable()

    def _append(self, lines: str) -> None:
        data = lines.encode("utf-8", "surrogateescape")
        size = os.fstat(self._file).st_size
        try:
            written = os.write(self._file, data)
        except OSError as error:
            if error.errno != errno.ENOSPC:
                raise
            written = 0
        if written < len(data):
            # The disk is full, and what was written shall be known all the same.
            os.ftruncate(self._file, size)
            self._reserve.unlink(missing_ok=True)
            if os.write(self._file, data) < len(data):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(self._folder))

    def has(self, picture: SourceImage, reduction: Resize | None) -> bool:
        """Whether it is written already. A user's own file may have changed since."""
        known = self.images.get(picture.path)
        if known and not reduction and known.bytes != picture.size:
            self.forget([picture.path])
            return False
        return known is not None

    def forget(self, paths: Iterable[str]) -> None:
        """These are not in the data set after all."""
        for path in paths:
            del self.images[path]
            if not self._in_place:
                (self._out / path).unlink()

    def _remember(self, one: ImageRecord | Skipped) -> None:
        if isinstance(one, ImageRecord):
            self.images[one.path] = one
        else:
            self.left_out.append(one)

    def _note_durable(self) -> None:
        """Every now and then, wait in the background until all that is noted so far outlives a power cut."""
        if self._synced and self._synced.done():
            self._append(f"#durable\t{self._position}\n")
            self._synced = None
        if self._since >= DURABLE and not self._synced and not self._in_place:
            self._position, self._since = os.fstat(self._file).st_size, 0
            self._synced = self._disk.submit(os.sync)

    def _same_as_before(self) -> None:
        path = self._folder / "what.json"
        try:
            before = json.loads(path.read_text())
        except FileNotFoundError:
            write_json(path, self._what)
            return
        if before != self._what:
            raise DataError(
                f"a preparation of {before['name']} ({_told(before['options'])}, from "
                f"{', '.join(before['archives']) or 'a folder'}) was begun in {self._out} and has not ended; "
                "go on with the same archives and options, or give another folder with --out"
            )

    def _take_up(self) -> None:
        """Read the notes of an earlier call, look at what may not have reached the disk, clear the rest away."""
        content = os.pread(self._file, os.fstat(self._file).st_size, 0)
        content = content[: content.rfind(b"\n") + 1]
        os.ftruncate(self._file, len(content))
        durable = place = 0
        after: list[tuple[int, ImageRecord]] = []
        for line in content.splitlines(keepends=True):
            fields = line[:-1].decode("utf-8", "surrogateescape").split("\t")
            if fields[0] == "#durable":
                durable = int(fields[1])
            elif fields[0] == "-":
                self._remember(Skipped(fields[1], fields[2]))
            else:
                part, group, path, *numbers = fields
                image = ImageRecord(cast(Part, part), group, path, *map(int, numbers))
                self._remember(image)
                after.append((place, image))
            place += len(line)
        if self._in_place:
            self.resumed = len(self.images)
            return
        for place, image in after:
            if place >= durable and not _is_sound(self._out, image):
                del self.images[image.path]
        self._clear_leftovers()
        self.resumed = len(self.images)

    def _clear_leftovers(self) -> None:
        for part in SPLITS:
            for folder, _, names in os.walk(self._out / part):
                below = os.path.relpath(folder, self._out)
                for name in names:
                    if f"{below}/{name}" not in self.images:
                        os.unlink(os.path.join(folder, name))


def _is_sound(out: Path, image: ImageRecord) -> bool:
    try:
        data = (out / image.path).read_bytes()
    except OSError:
        return False
    return len(data) == image.bytes and zlib.crc32(data) == image.crc32


class _Sums:
    """MD5 sums of the archives, taken while they are read anyway, so that the disk is read once."""

    def __init__(self, wanted: Mapping[Path, str | None]) -> None:
        self._wanted = {path: md5 for path, md5 in wanted.items() if md5}
        self._found: dict[Path, str] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._take, name="md5", daemon=True)
        self._thread.start()

    def _take(self) -> None:
        for path in self._wanted:
            digest = hashlib.md5(usedforsecurity=False)
            with path.open("rb") as file:
                while (data := file.read(2**20)) and not self._stop.is_set():
                    digest.update(data)
            self._found[path] = digest.hexdigest()

    def wait(self) -> dict[Path, str]:
        """The sums. Raises: DataError if one is not the wanted one."""
        self._thread.join()
        for path, md5 in self._wanted.items():
            if self._found.get(path) != md5:
                raise DataError(
                    f"{path} is not the published file: its MD5 is {self._found.get(path)}, not {md5}; "
                    "download it again, or say --no-md5 if it is meant to be another"
                )
        return self._found

    def stop(self) -> None:
        """Give up."""
        self._stop.set()
