"""`trainer bench`."""

from __future__ import annotations

import argparse
import dataclasses
import json
import tempfile
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.cli import _args
from trainer.config import load_recipe

if TYPE_CHECKING:
    from trainer.dataset import Dataset
    from trainer.performance import Baseline, LoaderBench, TrainBench

NAME, GROUP, ORDER = "bench", "measure", 1
HELP = "measure training and its input pipeline on this machine, beside baselines"
EXAMPLE = "trainer bench train rn50-baseline --json"

TRAIN_HELP = "throughput of training: on synthetic images, on JPEGs, of the loader alone, and of a plain loop"
LOADER_HELP = "throughput of making training batches, beside DALI's own reader and torchvision with Pillow"
PHOTOS = 512  # generated where no data set is given


def add_arguments(parser: ArgumentParser) -> None:
    """The command's arguments."""
    kinds = parser.add_subparsers(metavar="WHAT", required=True, dest="what")
    add_train_arguments(_add(kinds, "train", TRAIN_HELP, "trainer bench train rn50-baseline --steps 50"))
    add_loader_arguments(_add(kinds, "loader", LOADER_HELP, "trainer bench loader --sample 4096 --json"))


def run(options: Namespace) -> int:
    """Measure, and print the result as a table or as JSON."""
    return run_train(options) if options.what == "train" else run_loader(options)


def add_train_arguments(parser: ArgumentParser) -> None:
    """Arguments of `run_train`."""
    _args.add_recipe(parser)
    _args.add_device(parser)
    _args.add_execution(parser)
    _args.add_json(parser)
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder of a prepared data set (default: generated photos of ImageNet's sizes)",
    )
    parser.add_argument(
        "--steps",
        type=_args.positive_int,
        default=50,
        metavar="N",
        help="number of timed steps of each measurement (default: 50)",
    )
    parser.add_argument(
        "--rounds",
        type=_args.positive_int,
        default=3,
        metavar="N",
        help="number of rounds; each measures everything once (default: 3)",
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help="Chrome trace of five steps to write, for ui.perfetto.dev",
    )


def run_train(options: Namespace) -> int:
    """Measure training."""
    from trainer.cli._terminal import configure_logging, show_table
    from trainer.dataset import open_dataset
    from trainer.distributed import join_world
    from trainer.performance import bench_train, defaults, make_sample, measure

    configure_logging()
    recipe = load_recipe(options.recipe, options.set).at_full_res()
    given: dict[str, Any] = {
        "batch_per_gpu": options.batch_per_gpu,
        "compile": options.compile,
        "decoder": options.decoder,
    }
    with tempfile.TemporaryDirectory() as folder, join_world(options.device) as world:
        dataset: Dataset = (
            open_dataset(options.data) if options.data else make_sample(Path(folder), images=PHOTOS)
        )
        on_gpu = world.device.type == "cuda"
        # As before a run of ImageNet's length, though these photos may be few.
        tuned = measure(recipe, dataset.train, world, **given, short_run=0) if on_gpu else defaults(**given)
        result = bench_train(
            recipe,
            dataset.train,
            world,
            tuned.execution,
            steps=options.steps,
            rounds=options.rounds,
            profile=options.profile,
        )
    if options.json:
        print(json.dumps({**dataclasses.asdict(result), "autotuned": tuned.throughputs}))
    else:
        show_table(*_train_table(result))
    return 0


def _train_table(result: TrainBench) -> tuple[str, dict[str, str]]:
    """Title and rows."""
    throughput, limits, execution = result.images_per_second, result.roofline, result.execution
    title = (
        f"{result.environment.device}, {result.precision}, micro-batches of {result.micro_batch} images of "
        f"{result.train_size} px, compile {execution.compile}, decoder {execution.decoder}, "
        f"medians of {result.rounds} rounds"
    )
    rows = {
        "synthetic": f"{throughput['synthetic']:,.1f} images/s, {result.synthetic_to_plain:.2f} of the plain loop",
        "real JPEGs": f"{throughput['real']:,.1f} images/s, {result.real_to_synthetic:.3f} of synthetic, "
        f"{result.data_wait_share:.1%} of the time waiting for data",
        "loader": f"{throughput['loader']:,.1f} images/s without training",
        "plain loop": f"{throughput['plain']:,.1f} images/s on synthetic images, the loss read at every step",
        "validation": f"{throughput['validation']:,.1f} images/s, {result.validation_share:.1%} of ImageNet's epoch",
        "step": ", ".join(f"{phase} {spent:.1f} ms" for phase, spent in result.step_ms.items()),
    }
    if limits.bandwidth_share is not None:
        rows["bandwidth"] = f"{limits.bandwidth_share:.0%} of {limits.memory_gb_per_second:,.0f} GB/s"
    if (memory := result.gpu_memory) is not None:
        rows["memory"] = (
            f"torch {memory.torch:.1f} GiB (tensors {memory.torch_peak:.1f}), others {memory.others:.1f}, "
            f"free {memory.free:.1f}"
        )
    rows["processors"] = (
        f"{result.busy_cores['real']:.1f} of {result.environment.cpu_cores} at work on real JPEGs"
    )
    rows["arithmetic"] = (
        f"{limits.flops_share:.0%} of {limits.matmul_tflops:,.1f} TFLOP/s, "
        f"{limits.gflop_per_image:.1f} GFLOP per image"
    )
    return title, rows


def add_loader_arguments(parser: ArgumentParser) -> None:
    """Arguments of `run_loader`."""
    _args.add_device(parser)
    _args.add_json(parser)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("data", type=Path, nargs="?", metavar="DIR", help="folder of a prepared data set")
    source.add_argument(
        "--sample",
        type=_args.positive_int,
        metavar="N",
        help="number of photos of ImageNet's sizes to generate in place of a data set",
    )
    parser.add_argument(
        "--batch-size",
        type=_args.positive_int,
        default=128,
        metavar="N",
        help="images in a batch (default: 128)",
    )
    parser.add_argument(
        "--images",
        type=_args.positive_int,
        default=4096,
        metavar="N",
        help="number of timed images for each loader in each round, at least (default: 4,096)",
    )
    parser.add_argument(
        "--rounds",
        type=_args.positive_int,
        default=9,
        metavar="N",
        help="number of rounds; each measures every loader once (default: 9)",
    )
    parser.add_argument(
        "--shorter-side",
        action="append",
        type=_args.positive_int,
        default=[],
        metavar="PX",
        help="shorter side of stored photos, as `prepare --shorter-side` makes them, with which ours is measured too; "
        "repeat it for several sizes",
    )
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="NAME",
        help="name of a loader to compare with; repeat it for several (default: all)",
    )
    parser.add_argument(
        "--cold", action="store_true", help="drop the files from the page cache before each measurement"
    )
    parser.add_argument(
        "--scratch",
        type=Path,
        metavar="DIR",
        help="folder for temporary files, on the disk to be measured (default: the system's)",
    )


def run_loader(options: Namespace, baselines: Mapping[str, Baseline] | None = None) -> int:
    """Measure our loader and the baselines (default: those of the package)."""
    from trainer.cli._terminal import show_table
    from trainer.dataset import open_dataset
    from trainer.distributed import join_world
    from trainer.performance import BASELINES, bench_loader, make_sample

    recipe = load_recipe("rn50-baseline", [f"global_batch={options.batch_size}"])
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder, join_world(options.device) as world:
        dataset = (
            open_dataset(options.data) if options.data else make_sample(Path(folder), images=options.sample)
        )
        formats = Path(folder) / "formats"
        formats.mkdir()
        result = bench_loader(
            dataset.train,
            recipe,
            world,
            formats,
            images=options.images,
            rounds=options.rounds,
            baselines=BASELINES if baselines is None else baselines,
            cold=options.cold,
            shorter_side=options.shorter_side,
            only=options.only,
        )
    if options.json:
        print(json.dumps(dataclasses.asdict(result)))
    else:
        show_table(*_loader_table(result))
    return 0


def _loader_table(result: LoaderBench) -> tuple[str, dict[str, str]]:
    """Title and rows."""
    title = (
        f"{result.images:,} images{' not in the page cache' if result.cold else ''}, batches of "
        f"{result.global_batch}, {result.threads} DALI threads, medians of {result.rounds} rounds"
    )
    rows = {
        name: f"{measured.images_per_second:,.0f} images/s, {measured.images_per_cpu_second:,.0f} per CPU second"
        for name, measured in result.median.items()
    }
    for name, ratio in result.ratio.items():
        rows[name] += (
            f"; ours makes {ratio.images_per_second:.3f} times as many, "
            f"{ratio.images_per_cpu_second:.3f} times per CPU second"
        )
    return title, rows


def _add(kinds: Any, name: str, summary: str, example: str) -> ArgumentParser:
    parser: ArgumentParser = kinds.add_parser(
        name,
        help=summary,
        description=f"{summary[0].upper()}{summary[1:]}.",
        epilog=f"example:  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    return parser
