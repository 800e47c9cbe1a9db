"""What of a source is not on disk yet, in chunks for the writer threads; and what the source named all in all."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple, cast

from trainer.dataset._ignored import TWICE, Ignored, IgnoredCounts
from trainer.dataset._images import Resize
from trainer.dataset._manifest import SPLITS, ImageRecord, Skipped, SplitName
from trainer.dataset._names import shown
from trainer.dataset._resume_log import ResumeLog
from trainer.dataset._source import Part, Source, SourceImage
from trainer.errors import DataError

CHUNK = 4 * 2**20  # bytes that a writer thread takes at once, …
CHUNK_IMAGES = 64  # … and images


class End(NamedTuple):
    """All images of a part have come before."""

    name: str
    ignored: IgnoredCounts


class Chunk(NamedTuple):
    """Images that a writer thread takes at once."""

    images: list[SourceImage]
    end: End | None = None  # of the part that ends with them


class Missing:
    """Iterates once over the images of a source that are not on disk yet; knows what else the source named."""

    def __init__(
        self,
        source: Source,
        log: ResumeLog,
        resize: Resize | None,
        *,
        record: Callable[[SourceImage], ImageRecord | Skipped],
        progress: Callable[[int], None],
    ) -> None:
        """Nothing is read yet.

        Args:
            source: where the images come from.
            log: what has been written; logged images that the source no longer has are forgotten.
            resize: how large images are stored smaller.
            record: what would be logged of an image, without writing it.
            progress: called with the bytes of images that need not be written.
        """
        self._source, self._log, self._resize = source, log, resize
        self._record, self._progress = record, progress
        self.ignored = IgnoredCounts()
        self.class_ids: set[str] = set()  # classes that have a file which should be an image
        self._splits: set[SplitName] = set()  # splits that have one
        self._repeats: list[ImageRecord | Skipped] = []  # of a path that was there before
        self._part: IgnoredCounts | None = None  # of the part that is being read

    def chunks(self) -> Iterator[Chunk]:
        """The images in the source's order."""
        chunk: list[SourceImage] = []
        size = 0
        for image in self._images():
            if isinstance(image, End):
                yield Chunk(chunk, image)
                chunk, size = [], 0
                continue
            chunk.append(image)
            size += image.size
            if size >= CHUNK or len(chunk) >= CHUNK_IMAGES:
                yield Chunk(chunk)
                chunk, size = [], 0
        if chunk:
            yield Chunk(chunk)

    def check_repeats(self) -> None:
        """Compare repeats with what was written first, as far as it has been.

        Raises: DataError if two files of one name differ.
        """
        skipped = {one.path for one in self._log.skipped} if self._repeats else set()
        waiting = []
        for repeat in self._repeats:
            first = self._log.images.get(repeat.path)
            if first is None and repeat.path not in skipped:
                waiting.append(repeat)
            elif first != (repeat if isinstance(repeat, ImageRecord) else None):
                raise DataError(
                    f"the source has {shown(repeat.path)} twice, and the two differ; this is not what was published"
                )
        self._repeats = waiting

    def check(self) -> None:
        """After the last image.

        Raises: DataError if two files of one name differ, or archives have no files of the names that their form has.
        """
        self.check_repeats()
        source = self._source
        for split in SPLITS:
            if (source.archives or source.shards) and split not in self._splits:
                others = ", ".join(
                    f"{one.files:,} files such as {shown(one.example)}" for one in self.ignored.result()
                )
                raise DataError(
                    f"{source.origin or ', '.join(map(str, source.archives))}: no file has the name of an image for "
                    f"{split} of {source.name}; it holds {others or 'nothing'}; give the published archive"
                )

    def _images(self) -> Iterator[SourceImage | End]:
        log, paths = self._log, set(self._log.of_parts)
        skipped = {one.path for one in log.skipped}
        for path in paths:
            known = log.images.get(path)
            split, class_id = (known.split, known.class_id) if known else path.split("/")[:2]
            self._should_be_image(cast(SplitName, split), class_id)
        for image in self._unread():
            if isinstance(image, End):
                yield image
            elif isinstance(image, Ignored):
                self._ignore(image)
            elif isinstance(image, Skipped):
                if image.path not in skipped:
                    log.add([image])
                    skipped.add(image.path)
            elif image.path in paths:
                self._repeats.append(self._record(image))
                self._ignore(Ignored(image.path, TWICE))
            else:
                paths.add(image.path)
                self._should_be_image(image.split, image.class_id)
                if image.path in skipped or log.has(image, self._resize):
                    self._progress(image.size)
                else:
                    yield image if image.take is None else image._replace(read=image.take(), take=None)
        log.forget(set(log.images) - paths)

    def _unread(self) -> Iterator[SourceImage | Skipped | Ignored | End]:
        """What the source holds, without the parts that are written."""
        for one in self._source.images():
            if not isinstance(one, Part):
                yield one
            elif one.name in self._log.parts:
                self.ignored.add_counts(self._log.parts[one.name])
                self._progress(one.size)
            else:
                self._part = IgnoredCounts()
                yield from one.images()
                yield End(one.name, self._part)
                self._part = None

    def _should_be_image(self, split: SplitName, class_id: str) -> None:
        self.class_ids.add(class_id)
        self._splits.add(split)

    def _ignore(self, one: Ignored) -> None:
        self.ignored.add(one)
        if self._part is not None:
            self._part.add(one)
