"""Reading image files ahead, in threads: the source that DALI's pipelines call for each batch.

A loader plans batches (`PlannedBatch`): which images, and the arrays that the pipeline needs beside their
bytes. The reader starts to read the files of the next few planned batches, waits for those of the first, and
hands DALI its bytes and arrays. A batch is one piece of memory, which the threads fill and DALI uses without
a copy.

DALI sees no byte that is not what `prepare` has seen: its decoders may take a process down for a damaged header
(docs/decisions/0010). So a file's checksum and header are looked at first.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from isal import isal_zlib  # its CRC-32 is that of zlib, at the speed of memory

from trainer.config import Decoder
from trainer.dataloader._in_hand import MEND, InHand
from trainer.dataset import Refused, Split, read_header
from trainer.errors import DataError

READERS = 8  # threads that wait for the disk; network volumes answer in about a millisecond
FILES_PER_READ = 16  # files one task reads: few tasks, and enough of them for all threads
MAX_PIXELS = 128_000_000  # decoded at a time; DALI holds two to three times as much. ImageNet's batches have 50 million
READ_AHEAD = 4  # batches whose files are being read before DALI asks for them


class PlannedBatch(NamedTuple):
    """A batch before its files are read."""

    indices: npt.NDArray[np.int64]  # (N,) positions in the split
    arrays: tuple[npt.NDArray[Any], ...]  # (N, …) each: inputs of the pipeline after the encoded bytes
    ends: bool = True  # False: a piece of a batch, whose next piece follows

    def pieces(self, pixels: npt.NDArray[np.int64]) -> Iterator[PlannedBatch]:
        """Batches of at most MAX_PIXELS decoded pixels (or of one image) that make up this one.

        Args:
            pixels: of each image, (N,).
        """
        first, ends = 0, np.cumsum(pixels)
        while first < len(pixels):
            most = MAX_PIXELS + (ends[first - 1] if first else 0)
            last = max(first + 1, int(np.searchsorted(ends, most, side="right")))
            piece = slice(first, last)
            yield PlannedBatch(
                self.indices[piece], tuple(array[piece] for array in self.arrays), last == len(pixels)
            )
            first = last


class Reader:
    """A source for DALI's `external_source`: encoded bytes of a batch's images, and the planned arrays."""

    def __init__(self, split: Split, *, kept: int, decoder: Decoder) -> None:
        """Start the threads.

        Args:
            split: where the images are.
            kept: batches that DALI may work on at a time; their memory is kept alive.
            decoder: of the pipeline.
        """
        self.in_hand = InHand(decoder, kept=kept)
        self._split = split
        self._threads = ThreadPoolExecutor(READERS, thread_name_prefix="read-images")
        self._plan: Iterator[PlannedBatch] = iter(())
        self._ahead: deque[_Reading] = deque()
        # DALI works on our memory without owning it.
        self._in_use: deque[list[npt.NDArray[np.uint8]]] = deque(maxlen=kept)
        self._handed_over: deque[PlannedBatch] = deque()

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
        planned, paths, files, reads = self._ahead.popleft()
        for read in reads:
            read.result()
        self._in_use.append(files)
        self.in_hand.add(paths)
        self._handed_over.append(planned)
        return files, *planned.arrays

    def next_planned(self) -> PlannedBatch:
        """The batch that comes out of DALI next; DALI keeps the order."""
        return self._handed_over.popleft()

    def _read(self, planned: PlannedBatch) -> _Reading:
        """Have the files of a batch read, one behind the other into the same memory."""
        rows, paths = self._split.rows[planned.indices], self._split.files(planned.indices)
        ends = np.cumsum(rows["bytes"], dtype=np.int64)
        files = np.split(np.empty(ends[-1], np.uint8), ends[:-1])
        checksums = rows["crc32"].tolist()
        tasks = [slice(start, start + FILES_PER_READ) for start in range(0, len(files), FILES_PER_READ)]
        reads = [
            self._threads.submit(_read_files, paths[task], files[task], checksums[task]) for task in tasks
        ]
        return _Reading(planned, paths, files, reads)


class _Reading(NamedTuple):
    """A batch whose files are being read."""

    planned: PlannedBatch
    paths: list[bytes]
    files: list[npt.NDArray[np.uint8]]  # filled when `reads` are done
    reads: list[Future[None]]


def _read_files(paths: list[bytes], files: list[npt.NDArray[np.uint8]], checksums: list[int]) -> None:
    for path, file, crc32 in zip(paths, files, checksums, strict=True):
        read_file(path, file)
        verify(path, file, crc32)


def read_image(split: Split, index: int) -> bytes:
    """A file of the split, as it was prepared.

    Raises: DataError naming it if it cannot be read, has changed, or is of a kind that DALI does not decode.
    """
    row, path = split.rows[index], os.fsencode(split.path(index))
    data = np.empty(row["bytes"], np.uint8)
    read_file(path, data)
    verify(path, data, int(row["crc32"]))
    return data.tobytes()


def read_file(path: bytes, into: npt.NDArray[np.uint8]) -> None:
    """Fill `into` with a file. Its crop windows follow from the manifest, so it must still be the same file.

    Raises: DataError if the file cannot be read or has another length.
    """
    try:
        file = os.open(path, os.O_RDONLY | os.O_NONBLOCK)  # a pipe waits for a writer
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


def verify(path: bytes, data: npt.NDArray[np.uint8], crc32: int) -> None:
    """Check that an image is the one that was prepared, and of a kind that DALI decodes.

    Raises: DataError naming it if not.
    """
    if isal_zlib.crc32(data) != crc32:
        raise DataError(
            f"the image {os.fsdecode(path)} has changed since it was prepared: its checksum differs; {MEND}"
        )
    try:  # a manifest may be older than the rules
        read_header(data.data)
    except Refused as reason:
        raise DataError(f"the image {os.fsdecode(path)} {reason}; {MEND}") from None
