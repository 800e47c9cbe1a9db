"""Reading image files ahead."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from trainer.dataloader._reader import READ_AHEAD, PlannedBatch, Reader, read_file
from trainer.dataset import Dataset
from trainer.errors import DataError


@pytest.mark.parametrize("change", [-1, 0, 1, 99])
def test_a_file_fills_its_place_and_no_byte_beside_it(tmp_path: Path, change: int) -> None:
    (tmp_path / "a.JPEG").write_bytes(b"x" * (100 + change))
    memory = np.zeros(102, np.uint8)
    path, place = os.fsencode(tmp_path / "a.JPEG"), memory[1:101]

    if change:
        with pytest.raises(DataError, match=f"has {100 + change:,} bytes and was prepared with 100"):
            read_file(path, place)
    else:
        read_file(path, place)
        assert (place == ord("x")).all()
    assert memory[[0, 101]].tolist() == [0, 0]


def test_a_reader_hands_over_files_and_arrays_in_the_order_of_the_plan(dataset: Dataset) -> None:
    planned = []

    def plan() -> Iterator[PlannedBatch]:
        for start in range(0, 20, 2):
            planned.append(start)
            indices = np.array([start + 1, start], np.int64)
            yield PlannedBatch(indices, (dataset.train.labels[indices],))

    reader = Reader(dataset.train, kept=3, decoder="cpu")
    reader.start(plan())
    for start in range(0, 20, 2):
        files, labels = reader()
        pair = [start + 1, start]

        assert [file.tobytes() for file in files] == [dataset.train.path(i).read_bytes() for i in pair]
        assert labels.tolist() == dataset.train.labels[pair].tolist()
        assert reader.next_planned().indices.tolist() == pair
        assert planned == list(range(0, min(20, start + 2 * READ_AHEAD), 2))
    with pytest.raises(StopIteration):
        reader()


def test_nobody_waits_for_a_pipe_in_an_images_place(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.JPEG")

    with pytest.raises(DataError, match="has 0 bytes and was prepared with 100"):
        read_file(os.fsencode(tmp_path / "a.JPEG"), np.zeros(100, np.uint8))
