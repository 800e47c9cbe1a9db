"""Time, bytes and memory to make a data set of Hugging Face's shards, against the loops that people write."""

from __future__ import annotations

import argparse
import dataclasses
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks._program import exit_code, make_parser
from trainer.cli import _args
from trainer.dataset import imagenet_classes, imagenet_val_labels
from trainer.performance import DISTINCT, sample_photos

IN_SHARD = 4_357  # training images of a published Parquet shard: 1,281,167 in 294
ROW_GROUP = 100  # rows, as `datasets` writes images
ROUNDS = 5  # in rotation

# The content is written as it is: where `datasets` decodes it, a loop takes many times as long and changes every byte.
LOOPS = {
    "parquet": """
import os, sys
from datasets import Image, load_dataset
begin()
files = {split: f"{sys.argv[1]}/data/{split}-*.parquet" for split in ("train", "validation")}
for split, rows in load_dataset("parquet", data_files=files, streaming=True).items():
    names = rows.features["label"].names
    for row in rows.cast_column("image", Image(decode=False)):
        folder = f"{sys.argv[2]}/{split}/{row['label']}"
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/{row['image']['path']}", "wb") as file:
            file.write(row["image"]["bytes"])
os.sync()
""",
    "webdataset": """
import glob, os, sys
import webdataset
begin()
for split in ("train", "validation"):
    shards = sorted(glob.glob(f"{sys.argv[1]}/imagenet1k-{split}-*.tar"))
    for sample in webdataset.WebDataset(shards, shardshuffle=False):
        folder = f"{sys.argv[2]}/{split}/{int(sample['cls'])}"
        os.makedirs(folder, exist_ok=True)
        with open(f"{folder}/{sample['__key__']}.JPEG", "wb") as file:
            file.write(sample["jpg"])
os.sync()
""",
}
# Before and behind each: a process tells its own figures, from the end of the imports on.
BEGIN = """
import json, time
def counter(file, name):
    return int(dict(line.split(":") for line in open(f"/proc/self/{file}").read().splitlines())[name].split()[0])
def begin():
    global begun
    begun = time.perf_counter(), time.process_time(), counter("io", "wchar")
"""
END = """
figures = time.perf_counter() - begun[0], time.process_time() - begun[1], counter("io", "wchar") - begun[2]
print(json.dumps([*figures, counter("status", "VmHWM") // 1024]))
"""

OURS = """
import sys
from trainer import dataset
from trainer.cli import main
begin()
assert main(sys.argv[1:]) == 0
"""


@dataclass(frozen=True)
class ShardBench:
    """Result of `bench_shards`: `loop`, and `trainer` for `trainer prepare huggingface` with two workers."""

    images: int
    image_bytes: int
    cpu_cores: int
    seconds: dict[str, list[float]]  # of each round
    cpu_seconds: dict[str, list[float]]  # of all its threads
    bytes_written: dict[str, int]  # by system calls, of the command's own process
    peak_mib: dict[str, int]  # resident memory at most
    throughput_ratio: float  # of `trainer` to `loop`
    bytes_ratio: float  # of what `trainer` writes to the images


def bench_shards(scratch: Path, layout: str, *, images: int, rounds: int = ROUNDS) -> ShardBench:
    """Make files of shards with a loop around the library of the layout, and with `trainer prepare`.

    Both are timed from the end of their imports until everything is on the disk, in alternation.

    Args:
        scratch: an empty folder on the disk to be measured.
        layout: parquet or webdataset.
        images: number of training images.
        rounds: how often each is run.
    """
    size = _make_shards(scratch / "shards", layout, images)
    out = scratch / "out"
    commands = {
        "loop": [sys.executable, "-c", BEGIN + LOOPS[layout] + END, str(scratch / "shards"), str(out)],
        "trainer": [
            *(
                sys.executable,
                "-c",
                BEGIN + OURS + END,
                "prepare",
                "huggingface",
                str(scratch / "shards"),
                "--partial",
            ),
            *("--workers", "2", "--out", str(out)),
        ],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    cpu_seconds: dict[str, list[float]] = {name: [] for name in commands}
    written, peaks = dict.fromkeys(commands, 0), dict.fromkeys(commands, 0)
    environment = {**os.environ, "HF_HOME": str(scratch / "cache"), "HF_DATASETS_DISABLE_PROGRESS_BARS": "1"}
    for number in range(rounds):
        for name, command in sorted(commands.items(), reverse=bool(number % 2)):
            os.sync()
            done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            took, used, written[name], peak = json.loads(done.stdout.splitlines()[-1])
            seconds[name].append(round(took, 2))
            cpu_seconds[name].append(round(used, 2))
            peaks[name] = max(peaks[name], peak)
            shutil.rmtree(out)
    return ShardBench(
        images=images + len(VAL_NUMBERS),
        image_bytes=size,
        cpu_cores=os.cpu_count() or 1,
        seconds=seconds,
        cpu_seconds=cpu_seconds,
        bytes_written=written,
        peak_mib=peaks,
        throughput_ratio=median(seconds["loop"]) / median(seconds["trainer"]),
        bytes_ratio=written["trainer"] / size,
    )


VAL_NUMBERS = [
    imagenet_val_labels().index(label) + 1 for label in range(100)
]  # the first image of 100 classes


def _make_shards(folder: Path, layout: str, images: int) -> int:
    """Shards of 100 classes as they are published, but for the number of them; bytes of all images."""
    (folder / "data").mkdir(parents=True)
    photos, wnids = sample_photos(DISTINCT), tuple(imagenet_classes())
    train = [(f"{wnids[n % 100]}_{n}", n % 100, photos[n % DISTINCT]) for n in range(images)]
    val = [(f"ILSVRC2012_val_{number:08d}", label, photos[label]) for label, number in enumerate(VAL_NUMBERS)]
    write: Callable[[Path, list[tuple[str, int, bytes]]], None]
    write = _write_parquet if layout == "parquet" else _write_tar
    shards = [train[start : start + IN_SHARD] for start in range(0, images, IN_SHARD)]
    for number, rows in enumerate(shards):
        name = {
            "parquet": f"data/train-{number:05d}-of-{len(shards):05d}.parquet",
            "webdataset": f"imagenet1k-train-{number:04d}.tar",
        }
        write(folder / name[layout], rows)
    name = {"parquet": "data/validation-00000-of-00001.parquet", "webdataset": "imagenet1k-validation-00.tar"}
    write(folder / name[layout], val)
    return sum(len(photo) for *_, photo in [*train, *val])


def _write_parquet(path: Path, rows: list[tuple[str, int, bytes]]) -> None:
    from datasets import ClassLabel, Dataset, Features, Image, Value

    wnids = tuple(imagenet_classes())
    plain = Features({"image": {"bytes": Value("binary"), "path": Value("string")}, "label": Value("int64")})
    features = Features({"image": Image(), "label": ClassLabel(names=list(wnids))})

    def row(name: str, label: int, photo: bytes) -> dict[str, Any]:
        return {"image": {"bytes": photo, "path": f"{name}_{wnids[label]}.JPEG"}, "label": label}

    dataset = Dataset.from_list([row(*one) for one in rows], features=plain).cast(features)
    dataset.to_parquet(str(path), batch_size=ROW_GROUP)


def _write_tar(path: Path, rows: list[tuple[str, int, bytes]]) -> None:
    with tarfile.open(path, "w") as tar:
        for name, label, photo in rows:
            noted = {"filename": f"{name}.JPEG", "label": label, "width": 500, "height": 375}
            for ending, content in _sample(label, photo, noted):
                member = tarfile.TarInfo(f"{name}.{ending}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))


def _sample(label: int, photo: bytes, noted: dict[str, Any]) -> Iterator[tuple[str, bytes]]:
    yield "cls", str(label).encode()
    yield "jpg", photo
    yield "json", json.dumps(noted).encode()


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code."""
    parser = make_parser("huggingface", "Making a data set of Hugging Face's shards, against a loop.")
    parser.add_argument("layout", choices=list(LOOPS), help="of the shards")
    parser.add_argument(
        "--images",
        type=_args.positive_int,
        default=2 * IN_SHARD,
        metavar="N",
        help=f"training images (default: {2 * IN_SHARD:,}, two published Parquet shards)",
    )
    parser.add_argument(
        "--scratch", type=Path, metavar="DIR", help="folder for temporary files, on the disk to be measured"
    )
    _args.add_json(parser)
    options = parser.parse_args(arguments)
    return exit_code(lambda: _run(options), "benchmarks.huggingface")


def _run(options: argparse.Namespace) -> int:
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        result = bench_shards(Path(folder), options.layout, images=options.images)
    if options.json:
        print(json.dumps(dataclasses.asdict(result)))
        return 0
    for name in ("loop", "trainer"):
        print(
            f"{name:8} {median(result.seconds[name]):.1f} s, {median(result.cpu_seconds[name]):.1f} s of processors, "
            f"{result.bytes_written[name] / 1e9:.2f} GB written, {result.peak_mib[name]:,} MiB"
        )
    print(
        f"{result.images:,} images of {result.image_bytes / 1e9:.2f} GB: {result.throughput_ratio:.2f} times as fast, "
        f"{result.bytes_ratio:.3f} of the images' bytes written"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
