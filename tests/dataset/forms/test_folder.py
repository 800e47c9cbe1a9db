"""The user's own class folders."""

from __future__ import annotations

import itertools
import os
import shutil
from pathlib import Path

import pytest

from tests.conftest import write_photo
from tests.dataset.published import jpeg
from trainer.dataset import folder, open_dataset, prepare
from trainer.errors import DataError


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A user's folder: one folder a class, no split."""
    for class_id, count in (("ant", 10), ("bee", 20), ("wasp, social", 5)):
        for number in range(count):
            write_photo(tmp_path / "own" / class_id / f"{number:02d} é.jpg", seed=number)
    return tmp_path / "own"


def test_a_folder_is_split_in_place_stratified_and_seeded(own: Path) -> None:
    prepare(folder(own, out=own, val_fraction=0.2), own)

    made = open_dataset(own)
    assert made.classes == ("ant", "bee", "wasp, social")
    assert [(made.val.labels == label).sum() for label in range(3)] == [2, 4, 1]
    assert [(made.train.labels == label).sum() for label in range(3)] == [8, 16, 4]
    assert made.val.path(0).is_file()
    assert not set(map(made.val.name, range(7))) & set(map(made.train.name, range(28)))


def test_the_split_follows_from_the_seed_and_from_nothing_else(own: Path, tmp_path: Path) -> None:
    def split(root: Path, seed: int) -> set[str]:
        copy = tmp_path / f"copy{next(counter)}"
        prepare(folder(root, out=copy, val_fraction=0.2, seed=seed), copy)
        made = open_dataset(copy)
        return {made.val.name(index) for index in range(len(made.val))}

    counter = itertools.count()
    first = split(own, 0)
    assert split(own, 0) == first
    assert split(own, 1) != first
    shutil.rmtree(own / "bee")
    assert {name for name in first if "bee" not in name} == split(own, 0)


def test_files_that_are_no_images_are_skipped_and_named(own: Path) -> None:
    (own / "ant" / "empty.jpg").touch()
    (own / "ant" / "gif.jpg").write_bytes(b"GIF89a......")
    os.mkfifo(own / "ant" / "fifo.jpg")
    (own / "ant" / "dangling.jpg").symlink_to("nowhere")
    (own / "ant" / "folder.jpg").mkdir()
    bomb = bytearray(jpeg(0))
    frame = bomb.index(b"\xff\xc0")
    bomb[frame + 5 : frame + 9] = b"\xff\xdc\xff\xdc"  # 65500 x 65500
    (own / "ant" / "bomb.jpg").write_bytes(bomb)

    metadata = prepare(folder(own, out=own, val_fraction=0.2), own).metadata

    assert dict(metadata["skipped"]) == {
        "ant/empty.jpg": "is empty",
        "ant/gif.jpg": "is neither a JPEG nor a PNG",
        "ant/fifo.jpg": "is not a regular file",
        "ant/dangling.jpg": "cannot be read: No such file or directory",
        "ant/folder.jpg": "is not a regular file",
        "ant/bomb.jpg": "claims 65500 x 65500 pixels; a decompression bomb, or no photo to train on",
    }
    assert sum(metadata["counts"].values()) == 35


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 10.0, float("nan")])
def test_a_val_fraction_that_is_none_is_refused(own: Path, fraction: float) -> None:
    with pytest.raises(DataError, match="between 0 and 1"):
        folder(own, out=own, val_fraction=fraction)
