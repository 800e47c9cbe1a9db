"""Decoding every image before a training does."""

import io
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.conftest import ALONE, write_odd_files
from trainer.config import Recipe
from trainer.dataloader import TrainLoader, check_decoding
from trainer.dataloader._decoding import ImageDecoder
from trainer.dataset import Dataset, folder, open_dataset, prepare


def photo(seed: int, **options: int) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((160, 120), Image.Resampling.BICUBIC).save(
        file, "JPEG", quality=95, **options
    )
    return file.getvalue()


def flipped(data: bytes, count: int, seed: int) -> bytes:
    rng, damaged = random.Random(seed), bytearray(data)
    for _ in range(count):
        damaged[rng.randrange(700, len(damaged) - 2)] ^= 1 << rng.randrange(8)
    return bytes(damaged)


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda data: data[: len(data) // 2],
    "nine tenths": lambda data: data[: len(data) * 9 // 10],
    "all but 20 bytes": lambda data: data[:-20],
    "without its end": lambda data: data[:-2],
    "an end in the middle": lambda data: data[: len(data) // 2] + b"\xff\xd9",
    "a hole of zeros": lambda data: data[:2000] + bytes(1000) + data[3000:],
    "20 bits flipped": lambda data: flipped(data, 20, 1),
}
STOPS = ("half", "nine tenths", "all but 20 bytes", "without its end")  # where DALI's decoder stops


def prepared(root: Path, files: dict[str, bytes]) -> Dataset:
    for split in ("train", "val"):
        (root / split / "c").mkdir(parents=True)
        for name, data in files.items():
            (root / split / "c" / name).write_bytes(data)
    prepare(folder(root, out=root), root)
    return open_dataset(root)


@pytest.mark.parametrize("progressive", [False, True], ids=["baseline", "progressive"])
def test_every_damage_is_found_and_it_is_said_whether_training_would_stop(
    tmp_path: Path, progressive: bool
) -> None:
    good = photo(0, progressive=progressive)
    files = {f"{name}.JPEG": change(photo(1, progressive=progressive)) for name, change in DAMAGE.items()}

    dataset = prepared(tmp_path, {"good.JPEG": good, **files})
    found = {one.path.removeprefix("train/c/"): one for one in check_decoding(dataset) if "train" in one.path}

    assert found.keys() == files.keys()
    for name in STOPS:
        assert found[f"{name}.JPEG"].kind == "bad"
    dali = ImageDecoder({"device": "cpu"})
    for name, one in found.items():
        assert (dali.decode(files[name]) is None) == (one.kind == "bad"), name


def test_whatever_dali_stops_at_is_found() -> None:
    """The promise behind decoding at an eighth of the size: not one of 300 damaged files slips through."""
    import simplejpeg

    rng, missed = random.Random(3), []
    dali = ImageDecoder({"device": "cpu"})
    if True:
        for trial in range(300):
            data = photo(trial % 5, progressive=trial % 3 == 0, subsampling=trial % 3)
            match trial % 4:
                case 0:
                    data = data[: rng.randrange(700, len(data))]
                case 1:
                    data = flipped(data, rng.randrange(1, 30), trial)
                case 2:
                    start = rng.randrange(2, len(data) - 400)
                    data = data[:start] + bytes(rng.randrange(1, 400)) + data[start + 400 :]
                case 3:
                    start = rng.randrange(2, len(data) - 400)
                    data = data[:start] + data[start + rng.randrange(1, 400) :]
            try:
                simplejpeg.decode_jpeg(data, "GRAY", min_height=1, min_width=1, min_factor=8, strict=True)
            except ValueError:
                continue
            if dali.decode(data) is None:
                missed.append(trial)

    assert missed == []


def test_unusual_files_are_handled_and_named(tmp_path: Path) -> None:
    write_odd_files(tmp_path / "train" / "odd")
    shutil.copytree(tmp_path / "train", tmp_path / "val")
    prepare(folder(tmp_path, out=tmp_path), tmp_path)

    found = {one.path: (one.kind, one.reason) for one in check_decoding(open_dataset(tmp_path))}

    assert {path: said for path, said in found.items() if "train" in path} == {
        "train/odd/cmyk.JPEG": ("handled", "colours stored as CMYK"),
        "train/odd/png.JPEG": ("handled", "PNG, not JPEG"),
        "train/odd/rotated.JPEG": ("handled", "has an EXIF rotation, which is not applied"),
    }


def test_a_file_that_changed_without_changing_its_length_is_bad(photos: Path, tmp_path: Path) -> None:
    root = shutil.copytree(photos, tmp_path / "photos")
    dataset = open_dataset(root)
    path = dataset.train.path(3)
    data = bytearray(path.read_bytes())
    data[-100] ^= 1
    path.write_bytes(data)

    (found,) = check_decoding(dataset)
    assert (found.path, found.kind) == ("train/cat/006.JPEG", "bad")
    assert "its checksum differs" in found.reason


def test_a_vetted_set_never_stops_a_training(tmp_path: Path, tiny: Recipe) -> None:
    """Damage that decodes is used as it is, whatever the crop."""
    files = {f"{name}.JPEG": change(photo(1)) for name, change in DAMAGE.items() if name not in STOPS}
    files |= {f"{seed}.JPEG": photo(seed) for seed in range(8 - len(files))}
    dataset = prepared(tmp_path, files)

    assert not [one for one in check_decoding(dataset) if one.kind == "bad"]
    assert sum(1 for _ in TrainLoader(dataset.train, tiny, ALONE).batches(first_step=0, last_step=40)) == 40
