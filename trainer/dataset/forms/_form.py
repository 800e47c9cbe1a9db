"""What a published form of a data set is to `trainer prepare`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from trainer.dataset._archive_files import ArchiveFile
from trainer.dataset._look import Look
from trainer.dataset._source import Source

Identity = tuple[str, Mapping[str, Any]]  # name of the data set, and the options that decide its content


class Fetch(Protocol):
    """Finds an archive here or behind its address, or downloads it; shows how far it is."""

    def __call__(self, archive: str, *endings: str) -> ArchiveFile:
        """The archive.

        Args:
            archive: a path, URL, magnet link or torrent file.
            endings: ends of the file names of archives that a torrent may bring.
        """

    def bar(self, description: str) -> Callable[[int, int], None]:
        """A bar for what is downloaded otherwise; to be called with the bytes so far and the total."""


class Found(NamedTuple):
    """What a form recognises at a path or URL."""

    what: str  # for a sentence: "ImageNet in Kaggle's archive"
    arguments: list[str]  # of `trainer prepare FORM`, the path among them


@dataclass(frozen=True)
class Form:
    """One form in which data sets are published: its line of help, its arguments, and its source of images.

    `trainer prepare` itself adds --out, --workers and --json, and --shorter-side with --quality where images can be
    resized; `add_archive` and `add_no_md5` add what forms with archives share.
    """

    name: str  # FORM in `trainer prepare FORM`
    help: str  # one line
    example: str  # after `trainer prepare`
    add_arguments: Callable[[ArgumentParser], None]
    identity: Callable[[Namespace], Identity]  # known before anything is downloaded
    source: Callable[
        [Namespace, Path, Fetch], Source
    ]  # from the arguments, the folder --out and a downloader
    resizable: bool = True  # whether --shorter-side makes sense
    # Whether images may stay in the folder `options.folder`: --out is that by default, `options.manifest` an other
    # folder for the manifest.
    in_place: bool = False
    # Whether it is of this form what lies at a path; DataError if it nearly is, with what to mend. It costs a few
    # listed folders and an archive's first members at most.
    recognise: Callable[[Look], Found | None] = lambda look: None
    layout: str = ""  # what `recognise` looks for, for a list of what is known


def no_arguments(_: ArgumentParser) -> None:
    """For forms that take no arguments of their own."""


def add_archive(parser: ArgumentParser, *, publisher: str | None = None) -> None:
    """ARCHIVE and --downloads.

    Args:
        parser: the form's.
        publisher: whose archive is downloaded if none is given; None if one must be given.
    """
    if publisher:
        parser.add_argument(
            "archive",
            nargs="?",
            metavar="ARCHIVE",
            help=f"path or URL of the archive (default: {publisher}'s)",
        )
    else:
        parser.add_argument(
            "archive", metavar="ARCHIVE", help="path, URL, magnet link or torrent of the archive"
        )
    add_downloads(parser)


def add_downloads(parser: ArgumentParser) -> None:
    """--downloads."""
    parser.add_argument(
        "--downloads",
        type=Path,
        metavar="DIR",
        help="download to this folder, where it stays (default: read in place, without a copy)",
    )


def add_no_md5(parser: ArgumentParser) -> None:
    """--no-md5."""
    parser.add_argument(
        "--no-md5",
        action="store_true",
        help="accept another archive than the published one, e.g. a part of it",
    )
