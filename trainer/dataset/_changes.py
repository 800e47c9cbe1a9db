"""What became of a user's own images since their data set was prepared: "done" means done with these images."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from trainer.dataset._ignored import Ignored, IgnoredCounts, ignored_in
from trainer.dataset._images import Resize, image_size
from trainer.dataset._manifest import ImageRecord, Skipped, image_records, open_dataset, read_metadata
from trainer.dataset._names import shown
from trainer.dataset._places import places_in
from trainer.dataset._source import Source, SourceImage
from trainer.errors import DataError


@dataclass(frozen=True)
class Changes:
    """The difference between a complete data set and the images it comes from."""

    kept: list[ImageRecord]
    skipped: list[Skipped]  # files that need not be looked at again
    added: int  # images that are new, or have another length
    removed: list[str]  # paths of images that are no more
    only_ignored: bool  # whether other files are ignored than before
    moved: bool = False  # whether the same images lie elsewhere than before

    def __bool__(self) -> bool:
        """Whether there is a difference."""
        return bool(self.added or self.removed or self.only_ignored or self.moved)


def find_changes(source: Source, out: Path, resize: Resize | None) -> Changes | None:
    """What is different in `source` from the data set in `out`; None if it is no user's own, or none is complete.

    Raises: DataError if images are gone of which `out` has copies, or it shall be another data set's manifest.
    """
    metadata = read_metadata(out) if source.own else None
    if metadata is None:
        return None
    before = places_in(metadata)
    if bool(before.root) != bool(source.places.root):
        holds = f"the manifest of images in {before.root}" if before.root else "a data set with its images"
        raise DataError(f"{out} already holds {holds}; give another folder")
    dataset = open_dataset(out, with_images=False)
    known = {image.path: image for image in image_records(dataset)}
    skipped = {one.path for one in dataset.skipped}
    kept: list[ImageRecord] = []
    mended: set[str] = set()
    seen: set[str] = set()
    added = 0
    ignored = IgnoredCounts()
    for image in source.images():
        if isinstance(image, Ignored):
            ignored.add(image)
        elif isinstance(image, SourceImage):
            record = known.get(image.path)
            seen.add(image.path)
            if record is not None and _is_same(record, image, resize):
                kept.append(record)
            elif image.path not in skipped:
                added += 1
            elif source.in_place and _is_usable(image):  # what has been moved out is not here
                mended.add(image.path)
    removed = [path for path in known if path not in seen]
    if removed and not source.in_place:
        raise DataError(
            f"{source.origin} has {len(removed):,} images less than {out}, which was made from it (e.g. "
            f"{shown(removed[0])}); restore them, or make another data set with another --out"
        )
    counts = list(map(list, ignored.result()))
    return Changes(
        kept=kept,
        skipped=[one for one in dataset.skipped if one.path not in mended],
        added=added + len(mended),
        removed=removed,
        only_ignored="ignored" in metadata and counts != list(map(list, ignored_in(metadata))),
        moved=before != source.places,
    )


def _is_same(record: ImageRecord, image: SourceImage, resize: Resize | None) -> bool:
    return (record.split, record.class_id) == image[:2] and (resize is not None or record.bytes == image.size)


def _is_usable(image: SourceImage) -> bool:
    try:
        return not isinstance(image_size(image.read()), str)
    except OSError:
        return False
