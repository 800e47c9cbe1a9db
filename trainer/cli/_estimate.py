"""`trainer estimate`."""

from __future__ import annotations

import dataclasses
import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.cli import _args
from trainer.config import load_recipe

if TYPE_CHECKING:
    from trainer.performance import Estimate

NAME, GROUP, ORDER = "estimate", "train", 2
HELP = "estimate hours, dollars and the bottleneck of a recipe on rented machines"
EXAMPLE = "trainer estimate rn50-onecycle --instance g5.12xlarge --price 1.60"


def add_arguments(parser: ArgumentParser) -> None:
    """The command's arguments."""
    _args.add_recipe(parser)
    _args.add_json(parser)
    parser.add_argument(
        "--instance", metavar="NAME", help="instance type of AWS (default: all that are known)"
    )
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder of a prepared data set (default: ImageNet as published)",
    )
    parser.add_argument(
        "--images-per-second",
        type=_args.positive_float,
        metavar="N",
        help="throughput of one GPU, as `trainer bench train` measures it (default: predicted)",
    )
    parser.add_argument(
        "--price",
        type=_args.positive_float,
        metavar="USD",
        help="price of the machine per hour, in US dollars (default: on demand)",
    )
    parser.add_argument(
        "--disk-mb",
        type=_args.positive_float,
        default=125.0,
        metavar="N",
        help="throughput of the volume, in megabytes per second (default: 125, gp3)",
    )
    parser.add_argument(
        "--disk-iops",
        type=_args.positive_float,
        default=3000.0,
        metavar="N",
        help="reads per second of the volume (default: 3,000, gp3)",
    )


def run(options: Namespace) -> int:
    """Print what the recipe will take on one instance, or on all that are known."""
    from trainer.cli._terminal import show_table
    from trainer.instances import INSTANCES, find_instance
    from trainer.performance import IMAGENET, JPEG_KB, estimate

    recipe = load_recipe(options.recipe, options.set)
    images, kilobytes, name = IMAGENET, JPEG_KB, "ImageNet as published"
    if options.data:
        from trainer.dataset import open_dataset

        dataset = open_dataset(options.data)
        name, images = dataset.name, (len(dataset.train), len(dataset.val))
        kilobytes = float(dataset.train.rows["bytes"].mean()) / 1000
    wanted = {options.instance: find_instance(options.instance)} if options.instance else INSTANCES
    made = {
        instance: estimate(
            recipe,
            facts,
            images=images,
            kilobytes=kilobytes,
            gpu_images_per_second=options.images_per_second,
            disk_mb=options.disk_mb,
            disk_iops=options.disk_iops,
            usd_per_hour=options.price,
        )
        for instance, facts in wanted.items()
    }
    if options.json:
        print(json.dumps({instance: dataclasses.asdict(one) for instance, one in made.items()}))
        return 0
    sizes = {recipe.full_res, *map(recipe.train_size, recipe.in_force)}
    shown = " to ".join(str(size) for size in sorted({min(sizes), max(sizes)}))
    what = f"{recipe.name}, {recipe.epochs} epochs at {shown} px of {name}, {images[0]:,} images"
    rows = {instance: _row(one) for instance, one in made.items()}
    if options.instance:
        one = made[options.instance]
        rows |= {f"… {limit}": f"allows {most:,.0f} images/s" for limit, most in one.limits.items()}
        rows["disk"] = f"{one.disk_gb:,.0f} GB of images, and room for the archive while it is read"
    show_table(what, rows)
    basis = "the given images/s" if options.images_per_second else "published facts"
    print(
        f"\nA prediction from {basis}, see docs/performance.md. On demand in us-east-1; on spot instances, give what "
        "you pay with --price."
    )
    return 0


def _row(one: Estimate) -> str:
    return f"{one.hours:7,.1f} h  ${one.usd:8,.2f}  {one.images_per_second:8,.0f} images/s  {one.bottleneck} binds"
