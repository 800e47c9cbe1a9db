"""Where the images of a data set come from; each published form becomes a `Source`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from trainer.dataset._archive_files import ArchiveFile, Data, archive_size
from trainer.dataset._archives import Member, members
from trainer.dataset._ignored import OTHER_MEMBER, SYSTEM, Ignored
from trainer.dataset._manifest import Skipped, SplitName
from trainer.dataset._names import is_system_member
from trainer.dataset._places import Places
from trainer.errors import DataError


class SourceImage(NamedTuple):
    """An image that belongs in the data set."""

    split: SplitName
    class_id: str  # name of its class folder; for ImageNet its wnid
    path: str  # below the data set's folder
    size: int  # bytes, before any resize
    read: Callable[[], Data]  # its content; any thread may call it, …
    take: Callable[[], Callable[[], Data]] | None = (
        None  # … if this is None; else it makes such a `read`, in order
    )


class Part(NamedTuple):
    """A shard of a source, or another part of it that is opened by itself.

    Once all of it is on disk, a preparation that goes on does not open it again, so it may be gone by then.
    """

    name: str  # unlike those of the other parts
    size: int  # bytes, about
    images: Callable[
        [], Iterator[SourceImage | Skipped | Ignored]
    ]  # opens it; in the same order at each call


@dataclass(frozen=True)
class Published:
    """Counts of a published data set."""

    train: int  # images
    val: int
    classes: int


@dataclass(frozen=True)
class Archive:
    """A published file."""

    name: str
    md5: str
    bytes: int | None = None  # None: not published
    url: str | None = None  # None: not to be had without an account


@dataclass(frozen=True)
class Source:
    """The images of one data set."""

    name: str  # of the data set
    images: Callable[[], Iterator[SourceImage | Skipped | Ignored | Part]]  # in the same order at each call
    bytes: int  # approximate size of all images
    options: Mapping[str, Any] = field(default_factory=dict)  # other settings that decide the result
    archives: Mapping[ArchiveFile, str | None] = field(
        default_factory=dict
    )  # MD5 by archive; None: not verified
    shards: Mapping[str, int] = field(default_factory=dict)  # bytes of the files that are its parts, by name
    spare: int = 0  # bytes of the disk that are needed beside the images while they are prepared
    published: Published | None = None  # expected counts
    class_names: Callable[[], Mapping[str, str]] = dict  # words by class_id; called after the last image
    in_place: bool = False  # the images stay where they are
    places: Places = field(
        default_factory=Places
    )  # where that is, if not at their paths below the data set's folder
    own: bool = False  # a user's own images, which may have changed when it is prepared again
    name_given: bool = True  # not just taken from a folder that may be renamed
    origin: str = ""  # where the images come from, for messages
    class_ids: Collection[
        str
    ] = ()  # classes that must have images; those of `images` are known when they are read


ImageKey = tuple[SplitName, str, str]  # split, class_id and file name


def archive_images(
    archive: ArchiveFile, key: Callable[[Member], ImageKey | None]
) -> Iterator[SourceImage | Ignored]:
    """The members of an archive that are images of the data set, in the archive's order.

    Args:
        archive: a tar, a compressed tar or a zip, here or remote.
        key: split, class_id and file name of a member; None for members that are no images.
    """
    for member in members(archive):
        if is_system_member(member.name):
            yield Ignored(member.name, SYSTEM)
        elif (found := key(member)) is not None:
            yield member_image(member, *found)
        else:
            yield Ignored(member.name, OTHER_MEMBER)


def member_image(member: Member, split: SplitName, class_id: str, name: str) -> SourceImage:
    """The image that a member of an archive holds."""
    return SourceImage(split, class_id, f"{split}/{class_id}/{name}", member.size, member.read, member.take)


def expected_md5(archives: Mapping[ArchiveFile, Archive], *, verify: bool) -> dict[ArchiveFile, str | None]:
    """MD5 that each archive must have. A wrong length is found here, a wrong byte after the last image.

    Args:
        archives: the published archive that each path should hold.
        verify: False if other archives than the published ones are welcome.

    Raises: DataError if the length of an archive is not the published one.
    """
    if not verify:
        return dict.fromkeys(archives)
    for path, archive in archives.items():
        size = archive_size(path)
        if archive.bytes is not None and size != archive.bytes:
            raise DataError(
                f"{path} has {size:,} bytes and the published {archive.name} has {archive.bytes:,}; "
                "download it again, or accept another archive with --no-md5"
            )
    return {path: archive.md5 for path, archive in archives.items()}
