"""What a mirror holds: an index, written last, that names each object with its size and SHA-256."""

from __future__ import annotations

import json
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

from trainer.errors import MirrorError
from trainer.files import parse_json
from trainer.mirror._store import Changed, Store

INDEX = "index.json"
FORMAT = 1


class Entry(NamedTuple):
    """A file of the run folder."""

    path: str  # in the run folder, with / between its parts
    object: str  # the name of its object
    bytes: int
    sha256: str  # hexadecimal


@dataclass(frozen=True)
class Index:
    """A state of the run folder: a reader sees this one or another one, never a mixture."""

    generation: int = (
        0  # how often the mirror was taken over; a former owner's index is refused by its version
    )
    key: str = ""  # of the run's journal; empty while there is none
    step: int = -1  # optimizer steps of the newest checkpoint; -1: none
    saved: float = 0.0  # when that was written, seconds since 1970, by the clock of its machine
    finished: bool = False  # whether the run has its result
    best: str = ""  # name of the best checkpoint, where best.pt leads
    files: tuple[Entry, ...] = ()

    def checkpoints(self) -> list[Entry]:
        """Its checkpoints, the newest first."""
        return sorted((one for one in self.files if one.path.startswith("checkpoints/")), reverse=True)

    def others(self) -> list[Entry]:
        """Its other files."""
        return [one for one in self.files if not one.path.startswith("checkpoints/")]


def read_index(store: Store) -> tuple[Index, str | None]:
    """The index and its version; an empty one, and None, where there is none.

    Raises: MirrorError if it cannot be read, or is not an index.
    """
    found = store.read(INDEX)
    if found is None:
        return Index(), None
    try:
        content = parse_json(found.data)
        if content["format"] != FORMAT:
            raise MirrorError(
                f"the mirror was written by another version of trainer (format {content['format']}); use that one"
            )
        fields = {name: kind(content[name]) for name, kind in _FIELDS.items()}
        files = tuple(_entry(one) for one in content["files"])
    except (ValueError, LookupError, TypeError, AttributeError):
        raise MirrorError(
            f"{INDEX} of the mirror is no index of this program; look what is there, or give another RUNS_REMOTE"
        ) from None
    return Index(**fields, files=files), found.version


_FIELDS = {"generation": int, "key": str, "step": int, "saved": float, "finished": bool, "best": str}


def write_index(store: Store, index: Index, version: str | None) -> str:
    """Write the index over that of `version`; its new version. Raises: Changed, MirrorError."""
    content: dict[str, Any] = {"format": FORMAT, **asdict(index), "write": secrets.token_hex(8)}
    content["files"] = [entry._asdict() for entry in index.files]
    return store.write(INDEX, json.dumps(content, indent=1).encode(), version=version)


def take_over(store: Store) -> tuple[Index, str]:
    """The index as this machine's own, and its version: a former owner's next one is refused from now on."""
    while True:
        index, version = read_index(store)
        index = replace(index, generation=index.generation + 1)
        try:
            return index, write_index(store, index, version)
        except Changed:  # its last one came in between, and counts
            continue


def _entry(content: dict[str, Any]) -> Entry:
    """Raises: ValueError if its path would lead out of the run folder; LookupError, TypeError."""
    entry = Entry(str(content["path"]), str(content["object"]), int(content["bytes"]), str(content["sha256"]))
    parts: Sequence[str] = entry.path.split("/")
    if any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
        raise ValueError(entry.path)
    return entry
