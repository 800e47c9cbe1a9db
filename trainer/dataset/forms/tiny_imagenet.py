"""Tiny ImageNet as Stanford publishes it: 200 classes, 64 x 64 pixels, validation labels in val_annotations.txt.

Sources: cs231n.stanford.edu; its MD5 as in Avalanche and elsewhere.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from pathlib import Path

from trainer.dataset._archive_files import ArchiveFile, archive_size
from trainer.dataset._archives import TOP, Member, members, text_of
from trainer.dataset._ignored import Ignored
from trainer.dataset._look import Look
from trainer.dataset._source import (
    Archive,
    ImageKey,
    Published,
    Source,
    SourceImage,
    archive_images,
    expected_md5,
)
from trainer.dataset.forms._form import Fetch, Form, Found, add_archive, add_no_md5
from trainer.errors import DataError

TINY_IMAGENET = Published(train=100_000, val=10_000, classes=200)
ARCHIVE = Archive(
    "tiny-imagenet-200.zip",
    "90528d7ca1a48142e341f4ef8d21d0de",
    248_100_043,
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
)
_ROOT = "tiny-imagenet-200"
_IMAGE = re.compile(rf"{TOP}{_ROOT}/(?:train/(n\d{{8}})/images/(\1_\d+\.JPEG)|val/images/(val_\d+\.JPEG))")


def tiny_imagenet(archive: ArchiveFile, *, verify: bool = True) -> Source:
    """Tiny ImageNet from tiny-imagenet-200.zip.

    Args:
        archive: path of the zip.
        verify: whether it must be the published file, by length and MD5.
    """

    def images() -> Iterator[SourceImage | Ignored]:
        val_classes = {row[0]: row[1] for row in _table(archive, "val/val_annotations.txt") if len(row) > 1}
        wnids = {row[0] for row in _table(archive, "wnids.txt")}

        def key(member: Member) -> ImageKey | None:
            found = _IMAGE.fullmatch(member.name)
            if found is None:
                return None
            train_class, train_name, val_name = found.groups()
            wnid = train_class or val_classes.get(val_name)
            if wnid not in wnids:
                raise DataError(
                    f"{archive}: {member.name!r} belongs to none of the 200 classes in wnids.txt; "
                    "this is not the published archive"
                )
            return ("train", wnid, train_name) if train_class else ("val", wnid, val_name)

        yield from archive_images(archive, key)

    return Source(
        name="tiny-imagenet",
        images=images,
        bytes=archive_size(archive),
        archives=expected_md5({archive: ARCHIVE}, verify=verify),
        published=TINY_IMAGENET,
        class_names=lambda: {row[0]: row[1] for row in _table(archive, "words.txt") if len(row) > 1},
    )


def _table(archive: ArchiveFile, name: str) -> list[list[str]]:
    """Rows of a tab-separated text file in the archive."""
    for member in members(archive):
        if re.fullmatch(rf"{TOP}{_ROOT}/{re.escape(name)}", member.name):
            return [line.split("\t") for line in text_of(archive, member).splitlines()]
    raise DataError(f"{archive} has no {_ROOT}/{name}; this is not the published archive")


def _add_arguments(parser: ArgumentParser) -> None:
    add_archive(parser, publisher="Stanford")
    add_no_md5(parser)


def _source(options: Namespace, out: Path, fetch: Fetch) -> Source:
    return tiny_imagenet(fetch(options.archive or str(ARCHIVE.url)), verify=not options.no_md5)


def _recognise(look: Look) -> Found | None:
    known = look.name == ARCHIVE.name or any(re.match(rf"{TOP}{_ROOT}/", name) for name in look.members)
    return Found("Tiny ImageNet, 200 classes, in its archive", [look.address]) if known else None


FORM = Form(
    name="tiny-imagenet",
    help="Tiny ImageNet: 200 classes of ImageNet at 64 x 64 pixels",
    example="tiny-imagenet --out data/tiny-imagenet",
    add_arguments=_add_arguments,
    identity=lambda options: ("tiny-imagenet", {}),
    source=_source,
    resizable=False,
    recognise=_recognise,
    layout=ARCHIVE.name,
)
