"""Files that are not taken as images because of their names: told apart here, counted, never just passed over."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from trainer.dataset._names import ending_of, shown

ENDING = "have not the ending of a JPEG, PNG or WebP"
SYSTEM = "are hidden or an operating system's"
OUTSIDE = "lie outside of the class folders"
REPEATED = "are links to a folder that is read already"
QUARANTINED = "were moved out by `trainer check --quarantine`"
OTHER_MEMBER = "are no images of this data set"
TWICE = "are there twice, byte for byte"


class Ignored(NamedTuple):
    """A file, or a folder that was not entered, whose name says that it is no image of the data set."""

    path: str  # below the folder, or in the archive
    reason: str  # in the plural, after "8 files"


class IgnoredCount(NamedTuple):
    """Files that were ignored for the same reason."""

    ending: str  # in lower case; "" for none
    reason: str
    files: int
    example: str  # path of one of them

    def __str__(self) -> str:
        return f"{self.files:,} {self.ending or 'without ending'}, e.g. {shown(self.example)}: they {self.reason}"


class IgnoredCounts:
    """Counts ignored files by ending and reason."""

    def __init__(self, ignored: Iterable[Ignored] = ()) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()
        self._examples: dict[tuple[str, str], str] = {}
        for one in ignored:
            self.add(one)

    def add(self, one: Ignored) -> None:
        """Count a file."""
        key = ending_of(one.path), one.reason
        self._counts[key] += 1
        self._examples.setdefault(key, one.path)

    def add_counts(self, counts: Iterable[IgnoredCount]) -> None:
        """Count files that were counted before."""
        for one in counts:
            key = one.ending, one.reason
            self._counts[key] += one.files
            self._examples.setdefault(key, one.example)

    def result(self) -> list[IgnoredCount]:
        """All counts, the most frequent first."""
        counts = [IgnoredCount(*key, count, self._examples[key]) for key, count in self._counts.items()]
        return sorted(counts, key=lambda one: (-one.files, *one))


def ignored_in(metadata: Mapping[str, Any]) -> list[IgnoredCount]:
    """What `dataset.json` says of ignored files; nothing if it was written by an early version."""
    return [IgnoredCount(*entry) for entry in metadata.get("ignored", [])]
