"""Which files a decoder has in hand, and which of them it was at which it stopped or died.

Decoders do not name the file at which they stop, and may take the process with them. So a reader keeps the paths of
the batches that it has handed over, and notes them in files where a parent process has asked for it: what is left of
a process that died by a signal. `find_culprit` then decodes them one by one with the same decoder.
"""

from __future__ import annotations

import itertools
import os
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import cast

from trainer import ranks
from trainer.config import Decoder
from trainer.dataloader._child import DecodingChild
from trainer.errors import DataError

MEND = "restore it, or move it out with `trainer check --decode --quarantine`, and start again"

_readers = itertools.count()


class InHand:
    """The batches that a pipeline may be working on."""

    def __init__(self, decoder: Decoder, *, kept: int) -> None:
        """Nothing is in hand yet.

        Args:
            decoder: of the pipeline.
            kept: batches that it may work on at a time.
        """
        self._decoder = decoder
        self._batches: deque[list[bytes]] = deque(maxlen=kept)
        name, folder = f"{os.getpid()}-{next(_readers)}", os.environ.get(ranks.IN_HAND)
        self._notes = itertools.cycle(
            [Path(folder, f"{name}-{slot}") for slot in range(kept)] if folder else []
        )

    def add(self, paths: list[bytes]) -> None:
        """Note a batch that is handed over now."""
        self._batches.append(paths)
        if note := next(self._notes, None):
            with suppress(OSError):  # training must not end because of a full /tmp
                note.write_bytes(b"\0".join([self._decoder.encode(), *paths]))

    def culprit(self) -> DataError | None:
        """See `find_culprit`."""
        return find_culprit(itertools.chain.from_iterable(self._batches), self._decoder)


def find_culprit(paths: Iterable[bytes], decoder: Decoder) -> DataError | None:
    """The error that names the first of these images that cannot be decoded; None if all can."""
    with DecodingChild(decoder) as child:
        for path, reason in child.answers([os.fsdecode(path)] for path in paths):
            if reason is not None:
                return DataError(f"the image {path[0]} cannot be decoded ({reason}); {MEND}")
    return None


def culprit_of(folder: Path) -> DataError | None:
    """The same for the notes of processes that died by a signal."""
    for decoder, paths in _notes(folder):
        if error := find_culprit(paths, decoder):
            return error
    return None


def _notes(folder: Path) -> Iterator[tuple[Decoder, list[bytes]]]:
    """Decoder and paths of each batch, the latest first."""
    for note in sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime_ns, reverse=True):
        decoder, *paths = note.read_bytes().split(b"\0")
        if paths:  # else the process died while it wrote
            yield cast(Decoder, decoder.decode()), paths
