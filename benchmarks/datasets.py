"""Time to prepare, check and open a data set, against the same by hand."""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import resource
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import torch

from benchmarks._program import exit_code, make_parser
from trainer.cli import _args
from trainer.config import Recipe, load_recipe
from trainer.dataloader import TrainLoader, check_decoding
from trainer.dataset import (
    ImageRecord,
    imagenet_classes,
    imagenet_val_labels,
    open_dataset,
    write_manifest,
)
from trainer.distributed import World
from trainer.performance import DISTINCT, IMAGENET, make_sample, sample_photos

CLASSES = 100  # of the archive
ROUNDS = 4  # each command is first in half of them

# What stands in countless blog posts, PyTorch's own instructions among them.
BY_HAND = (
    'mkdir "$2" && cd "$2" && tar -xf "$1" && '
    'find . -name \'*.tar\' | xargs -I{} sh -c \'mkdir "${1%.tar}" && tar -xf "$1" -C "${1%.tar}" && rm "$1"\' sh {} '
    "&& sync"
)


@dataclass(frozen=True)
class PrepareBench:
    """Result of `bench_prepare`: `tar` is tar and find, `trainer` is `trainer prepare`."""

    images: int
    archive_bytes: int
    cpu_cores: int
    seconds: dict[str, list[float]]  # by command, of each round
    bytes_written: dict[str, int]
    throughput_ratio: float  # of `trainer` to `tar`
    bytes_ratio: float | None  # None: the file system does not count


@dataclass(frozen=True)
class CheckBench:
    """Result of `bench_check`: `pillow`, and `trainer` for `trainer check --decode`."""

    images: int
    mean_bytes: int  # of a JPEG
    cpu_cores: int
    images_per_second: dict[str, float]
    throughput_ratio: float  # of `trainer` to `pillow`


@dataclass(frozen=True)
class OpenBench:
    """Result of `bench_open`."""

    images: int
    index_bytes: int
    write_seconds: float  # of the manifest
    open_seconds: float
    first_batch_seconds: float  # opening included
    global_batch: int


def bench_prepare(scratch: Path, *, images: int) -> PrepareBench:
    """Unpack a nested archive like ImageNet's with tar and find, and with `trainer prepare`.

    Both are timed from the start of a command until everything is on the disk, in alternation.

    Args:
        scratch: an empty folder on the disk to be measured.
        images: number of images in the archive.
    """
    train, val = _make_archives(scratch, images)
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
    for number in range(ROUNDS):
        for name, command in sorted(commands.items(), reverse=bool(number % 2)):
            os.sync()
            before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock
            run = partial(subprocess.run, command, check=True, capture_output=True)
            seconds[name].append(_seconds(run))
            written[name] = 512 * (resource.getrusage(resource.RUSAGE_CHILDREN).ru_oublock - before)
            shutil.rmtree(by_hand, ignore_errors=True)
            shutil.rmtree(ours, ignore_errors=True)
    return PrepareBench(
        images=images,
        archive_bytes=train.stat().st_size,
        cpu_cores=_cores(),
        seconds={name: [round(one, 2) for one in measured] for name, measured in seconds.items()},
        bytes_written=written,
        throughput_ratio=median(seconds["tar"]) / median(seconds["trainer"]),
        bytes_ratio=written["trainer"] / written["tar"] if written["tar"] else None,
    )


def bench_check(scratch: Path, *, images: int) -> CheckBench:
    """Decode a data set with Pillow in a process on each core, and as `trainer check --decode` does.

    Neither counts the start of its program.

    Args:
        scratch: an empty folder.
        images: number of images.
    """
    dataset = make_sample(scratch, images=images)
    paths = [str(dataset.train.path(index)) for index in range(images)]
    seconds: dict[str, list[float]] = {"pillow": [], "trainer": []}
    with ProcessPoolExecutor(_cores(), get_context("forkserver")) as pool:
        list(pool.map(_decode_with_pillow, paths[:64]))
        for _ in range(ROUNDS):
            seconds["pillow"].append(
                _seconds(lambda: list(pool.map(_decode_with_pillow, paths, chunksize=64)))
            )
            seconds["trainer"].append(_seconds(lambda: list(check_decoding(dataset))))
    throughput = {name: images / median(measured) for name, measured in seconds.items()}
    return CheckBench(
        images=images,
        mean_bytes=int(dataset.train.rows["bytes"].mean()),
        cpu_cores=_cores(),
        images_per_second=throughput,
        throughput_ratio=throughput["trainer"] / throughput["pillow"],
    )


def bench_open(scratch: Path, recipe: Recipe, *, images: tuple[int, int] = IMAGENET) -> OpenBench:
    """Open a manifest as long as ImageNet's and make the first batch, both in this process.

    Args:
        scratch: an empty folder.
        recipe: size of the batch.
        images: number of training images, and of validation images.
    """
    photos = sample_photos(64)
    checksums = [zlib.crc32(photo) for photo in photos]
    names = [f"photos/{index:030d}.JPEG" for index in range(len(photos))]  # as long as ImageNet's
    (scratch / "photos").mkdir()
    for name, photo in zip(names, photos, strict=True):
        (scratch / name).write_bytes(photo)

    def records() -> Iterator[ImageRecord]:
        for number in range(sum(images)):
            index = number % len(photos)
            yield ImageRecord(
                "train" if number < images[0] else "val",
                f"n{number % 1000:08d}",
                names[index],
                len(photos[index]),
                500,
                375,
                checksums[index],
            )

    metadata = {"name": "long", "options": {}}
    written = _seconds(lambda: write_manifest(scratch, records(), [], metadata=metadata, class_names={}))
    begun = time.perf_counter()
    dataset = open_dataset(scratch)
    opened = time.perf_counter() - begun
    loader = TrainLoader(dataset.train, recipe, World(0, 1, torch.device("cpu")))
    batch = next(loader.batches(first_step=0, last_step=1))
    first_batch = time.perf_counter() - begun
    return OpenBench(
        images=len(dataset.train) + len(dataset.val),
        index_bytes=next(scratch.glob("index-*.npy")).stat().st_size,
        write_seconds=written,
        open_seconds=opened,
        first_batch_seconds=first_batch,
        global_batch=len(batch.labels),
    )


def _make_archives(scratch: Path, images: int) -> tuple[Path, Path]:
    """Archives of training and validation images, as image-net.org has them."""
    photos, wnids = sample_photos(DISTINCT), tuple(imagenet_classes())[:CLASSES]
    train, val = scratch / "ILSVRC2012_img_train.tar", scratch / "ILSVRC2012_img_val.tar"
    with tarfile.open(train, "w") as outer:
        for position, wnid in enumerate(wnids):
            inner = io.BytesIO()
            with tarfile.open(fileobj=inner, mode="w") as tar:
                for number in range(position, images, CLASSES):
                    _add_file(tar, f"{wnid}_{number}.JPEG", photos[number % DISTINCT])
            _add_file(outer, f"{wnid}.tar", inner.getvalue())
    with tarfile.open(val, "w") as tar:
        for label in range(CLASSES):
            number = imagenet_val_labels().index(label) + 1
            _add_file(tar, f"ILSVRC2012_val_{number:08d}.JPEG", photos[0])
    return train, val


def _add_file(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(content)
    tar.addfile(member, io.BytesIO(content))


def _decode_with_pillow(path: str) -> None:
    from PIL import Image

    with Image.open(path) as image:
        image.verify()
    with Image.open(path) as image:
        image.load()


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _cores() -> int:
    return os.cpu_count() or 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code."""
    parser = make_parser("datasets", "Preparing, checking and opening a data set, against the same by hand.")
    kinds = parser.add_subparsers(metavar="WHAT", required=True, dest="what")
    for name, summary in (
        ("prepare", "`trainer prepare imagenet` against tar and find"),
        ("check", "`trainer check --decode` against Pillow"),
        ("open", "a manifest as long as ImageNet's"),
    ):
        kind = kinds.add_parser(name, help=summary, description=f"Time {summary}.", allow_abbrev=False)
        kind.add_argument(
            "--scratch",
            type=Path,
            metavar="DIR",
            help="folder for temporary files, on the disk to be measured (default: the system's)",
        )
        _args.add_json(kind)
        if name != "open":
            kind.add_argument(
                "--images",
                type=_args.positive_int,
                default=20_000,
                metavar="N",
                help="number of images (default: 20,000)",
            )
    options = parser.parse_args(arguments)
    return exit_code(lambda: _run(options), "benchmarks.datasets")


def _run(options: argparse.Namespace) -> int:
    result: PrepareBench | CheckBench | OpenBench
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        match options.what:
            case "prepare":
                result = bench_prepare(Path(folder), images=options.images)
            case "check":
                result = bench_check(Path(folder), images=options.images)
            case _:
                result = bench_open(Path(folder), load_recipe("rn50-baseline", ["global_batch=128"]))
    if options.json:
        print(json.dumps(dataclasses.asdict(result)))
    else:
        print(f"{result.images:,} images, {_cores()} cores\n{_rows(result)}")
    return 0


def _rows(result: PrepareBench | CheckBench | OpenBench) -> str:
    if isinstance(result, PrepareBench):
        return (
            f"tar and find     {median(result.seconds['tar']):.1f} s\n"
            f"trainer prepare  {median(result.seconds['trainer']):.1f} s, "
            f"{result.throughput_ratio:.2f} times as fast\n"
            f"written          {result.bytes_ratio or 0:.2f} of the bytes"
        )
    if isinstance(result, CheckBench):
        throughput = result.images_per_second
        return (
            f"Pillow         {throughput['pillow']:,.0f} images/s\n"
            f"trainer check  {throughput['trainer']:,.0f} images/s, {result.throughput_ratio:.2f} times as fast"
        )
    return (
        f"open         {result.open_seconds:.2f} s\n"
        f"first batch  {result.first_batch_seconds:.2f} s after the start, of {result.global_batch} images"
    )


if __name__ == "__main__":
    raise SystemExit(main())
