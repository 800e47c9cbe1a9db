"""How fast data sets are prepared, checked and opened, against how it is done by hand."""

from __future__ import annotations

import io
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any

from trainer.config import Recipe
from trainer.dataloader import TrainLoader, check_decoding
from trainer.dataset import (
    ImageRecord,
    imagenet_classes,
    imagenet_val_labels,
    open_dataset,
    write_manifest,
)
from trainer.distributed import World
from trainer.performance._photos import DISTINCT, make_sample, sample_photos

GROUPS = 100  # classes of the benchmark's archive
REPEATS = 4  # and each goes first in half of them
IMAGENET_TRAIN = 1_281_167

# What stands in countless blog posts, PyTorch's own instructions among them.
BY_HAND = (
    'mkdir "$2" && cd "$2" && tar -xf "$1" && '
    'find . -name \'*.tar\' | xargs -I{} sh -c \'mkdir "${1%.tar}" && tar -xf "$1" -C "${1%.tar}" && rm "$1"\' sh {} '
    "&& sync"
)


def bench_prepare(scratch: Path, *, images: int) -> dict[str, Any]:
    """Unpack a nested archive like ImageNet's: with tar and find, and with `trainer prepare`.

    Both start as a command and end when everything is on the disk; they take turns.

    Args:
        scratch: an empty folder on the disk that counts.
        images: in the archive.

    Returns: seconds, bytes written and their ratios.
    """
    train, val = _archives(scratch, images)
    by_hand, ours = scratch / "by-hand", scratch / "ours"
    commands: dict[str, list[str]] = {
        "tar": ["sh", "-c", BY_HAND, "sh", str(train), str(by_hand)],
        "trainer": [
            *(sys.executable, "-m", "trainer", "prepare", "imagenet", str(train), str(val)),
            *("--no-md5", "--out", str(ours)),
        ],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    written: dict[str, int] = {}
    for turn in range(REPEATS):
        for name, command in sorted(commands.items(), reverse=bool(turn % 2)):
            os.sync()
            before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock
            run = partial(subprocess.run, command, check=True, capture_output=True)
            seconds[name].append(_seconds(run))
            written[name] = 512 * (resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock - before)
            shutil.rmtree(by_hand, ignore_errors=True)
            shutil.rmtree(ours, ignore_errors=True)
    return {
        "images": images,
        "archive_bytes": train.stat().st_size,
        "cpus": os.cpu_count(),
        "seconds": {name: [round(one, 2) for one in all_] for name, all_ in seconds.items()},
        "bytes_written": written,
        "speed_ratio": median(seconds["tar"]) / median(seconds["trainer"]),
        "bytes_ratio": written["trainer"] / written["tar"] if written["tar"] else None,
    }


def bench_check(scratch: Path, *, images: int) -> dict[str, Any]:
    """Decode a data set: with Pillow in as many processes as processors, and as `trainer check --decode` does.

    Returns: images/s and their ratio. Neither counts the start of its program.
    """
    dataset = make_sample(scratch, images=images)
    paths = [str(dataset.train.path(index)) for index in range(images)]
    processes = os.cpu_count() or 1
    seconds: dict[str, list[float]] = {"pillow": [], "trainer": []}
    with ProcessPoolExecutor(processes, get_context("forkserver")) as pool:
        list(pool.map(_pillow, paths[:64]))
        for _ in range(REPEATS):
            seconds["pillow"].append(_seconds(lambda: list(pool.map(_pillow, paths, chunksize=64))))
            seconds["trainer"].append(_seconds(lambda: list(check_decoding(dataset))))
    speed = {name: images / median(all_) for name, all_ in seconds.items()}
    return {
        "images": images,
        "bytes_each": int(dataset.train.rows["bytes"].mean()),
        "cpus": processes,
        "images_per_second": speed,
        "speed_ratio": speed["trainer"] / speed["pillow"],
    }


def bench_open(scratch: Path, recipe: Recipe) -> dict[str, Any]:
    """Open a manifest as long as ImageNet's and make the first batch; both parts in this process."""
    photos = sample_photos(64)
    (scratch / "photos").mkdir()
    for index, photo in enumerate(photos):
        (scratch / "photos" / f"{index:02d}.JPEG").write_bytes(photo)

    def facts() -> Iterator[ImageRecord]:
        for number in range(IMAGENET_TRAIN + 50_000):
            part = "train" if number < IMAGENET_TRAIN else "val"
            index = number % len(photos)
            path = f"photos/{'./' * 12}{index:02d}.JPEG"  # as long as ImageNet's
            yield ImageRecord(part, f"n{number % 1000:08d}", path, len(photos[index]), 500, 375, 0)  # type: ignore[arg-type]

    writing = _seconds(
        lambda: write_manifest(scratch, facts(), [], metadata={"name": "long"}, class_names={})
    )
    begun = time.perf_counter()
    dataset = open_dataset(scratch)
    opened = time.perf_counter() - begun
    import torch

    images = TrainLoader(dataset.train, recipe, World(0, 1, torch.device("cpu")))
    batch = next(images.batches(first_step=0, last_step=1))
    first = time.perf_counter() - begun
    return {
        "images": len(dataset.train) + len(dataset.val),
        "index_bytes": next(scratch.glob("index-*.npy")).stat().st_size,
        "seconds": {"write": writing, "open": opened, "to_first_batch": first},
        "batch": len(batch.labels),
    }


def _archives(scratch: Path, images: int) -> tuple[Path, Path]:
    photos, groups = sample_photos(DISTINCT), tuple(imagenet_classes())[:GROUPS]
    train, val = scratch / "ILSVRC2012_img_train.tar", scratch / "ILSVRC2012_img_val.tar"
    with tarfile.open(train, "w") as outer:
        for position, group in enumerate(groups):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for number in range(position, images, GROUPS):
                    _add(tar, f"{group}_{number}.JPEG", photos[number % DISTINCT])
            _add(outer, f"{group}.tar", inner.getvalue())
    with tarfile.open(val, "w") as tar:
        for label in range(GROUPS):
            _add(tar, f"ILSVRC2012_val_{imagenet_val_labels().index(label) + 1:08d}.JPEG", photos[0])
    return train, val


def _add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def _pillow(path: str) -> None:
    from PIL import Image

    with Image.open(path) as image:
        image.verify()
    with Image.open(path) as image:
        image.load()


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun
