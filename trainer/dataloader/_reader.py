"""Reading image files ahead, in threads: the source that DALI's pipelines call for each batch.

A loader plans batches (`PlannedBatch`): which images, and the arrays that the pipeline needs beside their
bytes. The reader starts to read the files of the next few planned batches, waits for those of the first, and
hands DALI its bytes and arrays. A batch is one piece of memory, which the threads fill and DALI uses without
a copy.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from trainer.dataset import Split
from trainer.errors import DataError

READERS = 8  # threads that wait for the disk; network volumes answer in about a millisecond
FILES_PER_READ = 16  # files one task reads: few tasks, and enough of them for all threads
READ_AHEAD = 4  # batches whose files are being read before DALI asks for them


class PlannedBatch(NamedTuple):
    """A batch before its files are read."""

    indices: npt.NDArray[np.int64]  # (N,) positions in the split
    arrays: tuple[npt.NDArray[Any], ...]  # (N, …) each: inputs of the pipeline after the encoded bytes


class Reader:
    """A source for DALI's `external_source`: encoded bytes of a batch's images, and the planned arrays."""

    def __init__(self, split: Split, *, kept: int) -> None:
        """Start the threads.

        Args:
            split: where the images are.
            kept: batches that DALI may work on at a time; their memory is kept alive.
        """
        self._split = split
        self._root = os.fsencode(split.root)
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="read-images")
        self._plan: Iterator[PlannedBatch] = iter(())
        self._ahead: deque[_Reading] = deque()
        # DALI works on our memory without owning it.
        self._in_use: deque[tuple[PlannedBatch, list[npt.NDArray[np.uint8]]]] = deque(maxlen=kept)
        self._handed_over: deque[npt.NDArray[np.int64]] = deque()

    def start(self, plan: Iterator[PlannedBatch]) -> None:
        """Read these batches from now on."""
        self._plan = plan
        self._ahead.clear()

    def __call__(self) -> tuple[Any, ...]:
        """Encoded files and arrays of the next batch.

        Raises: StopIteration at the end of the plan; DataError naming the file that cannot be read.
        """
        while len(self._ahead) < READ_AHEAD and (planned := next(self._plan, None)) is not None:
            self._ahead.append(self._read(planned))
        if not self._ahead:
            raise StopIteration
        planned, files, reads = self._ahead.popleft()
        for read in reads:
            read.result()
        self._in_use.append((planned, files))
        self._handed_over.append(planned.indices)
        return files, *planned.arrays

    def next_indices(self) -> npt.NDArray[np.int64]:
        """Positions in the split (N,) of the batch that comes out of DALI next; DALI keeps the order."""
        return self._handed_over.popleft()

    def recent_paths(self) -> Iterator[Path]:
        """Files of the batches that DALI may be working on, oldest first."""
        for planned, _ in self._in_use:
            yield from (self._split.path(index) for index in planned.indices)

    def _read(self, planned: PlannedBatch) -> _Reading:
        """Have the files of a batch read, one behind the other into the same memory."""
        rows = self._split.rows[planned.indices]
        paths = [os.path.join(self._root, path) for path in rows["path"].tolist()]
        ends = np.cumsum(rows["bytes"], dtype=np.int64)
        files = np.split(np.empty(ends[-1], np.uint8), ends[:-1])
        tasks = [slice(start, start + FILES_PER_READ) for start in range(0, len(files), FILES_PER_READ)]
        reads = [self._threads.submit(_read_files, paths[task], files[task]) for task in tasks]
        return _Reading(planned, files, reads)


class _Reading(NamedTuple):
    """A batch whose files are being read."""

    planned: PlannedBatch
    files: list[npt.NDArray[np.uint8]]  # filled when `reads` are done
    reads: list[Future[None]]


def _read_files(paths: list[bytes], files: list[npt.NDArray[np.uint8]]) -> None:
    for path, file in zip(paths, files, strict=True):
        read_file(path, file)


def read_file(path: bytes, into: npt.NDArray[np.uint8]) -> None:
    """Fill `into` with a file. Its crop windows follow from the manifest, so it must still be the same file.

    Raises: DataError if the file cannot be read or has another length.
    """
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            length = 0  # one byte more than expected is asked for: a file that has it has grown
            while length <= len(into) and (more := os.readv(file, [into.data[length:], bytearray(1)])):
                length += more
            size = length if length <= len(into) else os.fstat(file).st_size
        finally:
            os.close(file)
    except OSError as error:
        raise DataError(
            f"the image {os.fsdecode(path)} cannot be read: {error.strerror}; restore it and start again"
        ) from None
    if size != len(into):
        raise DataError(
            f"the image {os.fsdecode(path)} has {size:,} bytes and was prepared with {len(into):,}; "
            "restore it, or move it out with `trainer check --quarantine`, and start again"
        )
