"""`trainer estimate`."""

from __future__ import annotations

import dataclasses
import json
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.cli import _args
from trainer.config import load_recipe
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from trainer.instances import Instance
    from trainer.performance import Estimate

NAME, GROUP, ORDER = "estimate", "train", 2
HELP = "hours, dollars and bottleneck of a recipe on rented machines, or what a budget can reach"
EXAMPLE = "trainer estimate rn50-onecycle --instance g5.12xlarge --price 1.60"


def add_arguments(parser: ArgumentParser) -> None:
    """The command's arguments."""
    _args.add_recipe(parser, optional=True)
    _args.add_json(parser)
    parser.add_argument(
        "--budget",
        type=_args.positive_float,
        metavar="USD",
        help="show what so many US dollars can reach, on what and how soon, with RECIPE or with all that are shipped",
    )
    parser.add_argument(
        "--until",
        type=_args.fraction,
        metavar="TOP1",
        help="with --budget: only what reaches this top-1, such as 0.75",
    )
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
        "--spot-price",
        type=_args.positive_float,
        metavar="USD",
        help="with --budget: price per hour of a spot instance, as it is now (default: 40 %% of that on demand)",
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
    """Print what the recipe will take on one instance, or on all that are known; or what a budget can reach."""
    from trainer.instances import INSTANCES, find_instance
    from trainer.performance import IMAGENET, JPEG_KB

    _check(options)
    images, kilobytes, name = IMAGENET, JPEG_KB, "ImageNet as published"
    if options.data:
        from trainer.dataset import open_dataset

        dataset = open_dataset(options.data)
        name, images = dataset.name, (len(dataset.train), len(dataset.val))
        kilobytes = float(dataset.train.rows["bytes"].mean()) / 1000
    wanted = {options.instance: find_instance(options.instance)} if options.instance else INSTANCES
    facts = {
        "images": images,
        "kilobytes": kilobytes,
        "gpu_images_per_second": options.images_per_second,
        "disk_mb": options.disk_mb,
        "disk_iops": options.disk_iops,
    }
    if options.budget:
        from trainer.cli._budget_table import show_budget

        show_budget(options, wanted, f"{name}, {images[0]:,} images", facts)
    else:
        _show_recipe(options, wanted, f"{name}, {images[0]:,} images", facts)
    return 0


def _check(options: Namespace) -> None:
    """Refuse options that mean nothing together. Raises: ConfigError."""
    if not options.recipe and not options.budget:
        raise ConfigError(
            "give a RECIPE (trainer recipes lists them), or --budget USD to see what it can reach"
        )
    if options.set and not options.recipe:
        raise ConfigError("--set changes a recipe; give a RECIPE as well")
    for flag, value in (("--until", options.until), ("--spot-price", options.spot_price)):
        if value and not options.budget:
            raise ConfigError(f"{flag} belongs to --budget USD; give that as well")
    for flag in ("--price", "--spot-price", "--images-per-second"):
        if not options.instance and getattr(options, flag[2:].replace("-", "_")):
            raise ConfigError(
                f"{flag} is of one machine; say of which with --instance NAME. What another takes, train --price USD "
                "--max-dollars USD says after its first steps"
            )


def _show_recipe(
    options: Namespace, wanted: Mapping[str, Instance], data: str, facts: dict[str, Any]
) -> None:
    from trainer.cli._terminal import show_table
    from trainer.performance import estimate

    recipe = load_recipe(options.recipe, options.set)
    made = {
        name: estimate(recipe, instance, usd_per_hour=options.price, **facts)
        for name, instance in wanted.items()
    }
    if options.json:
        print(json.dumps({instance: dataclasses.asdict(one) for instance, one in made.items()}))
        return
    sizes = {recipe.full_res, *map(recipe.train_size, recipe.in_force)}
    shown = " to ".join(str(size) for size in sorted({min(sizes), max(sizes)}))
    rows = {instance: _row(one) for instance, one in made.items()}
    if options.instance:
        one, machine = made[options.instance], wanted[options.instance]
        rows |= {f"… {limit}": f"allows {most:,.0f} images/s" for limit, most in one.limits.items()}
        rows["disk"] = f"{one.disk_gb:,.0f} GB of images, and room for the archive while it is read"
        rows["machine"] = (
            f"{machine.gpus} {machine.gpu}, {machine.vcpus} vCPU, {machine.memory_gib:,} GiB, "
            f"{machine.nvme_gb:,} GB of NVMe"
        )
        rows["quota"] = f"{machine.vcpus} vCPU of {machine.quota} instances, on demand and spot each"
    show_table(f"{recipe.name}, {recipe.epochs} epochs at {shown} px of {data}", rows)
    basis = "the given images/s" if options.images_per_second else "published facts"
    print(
        f"\nA prediction from {basis}, see docs/performance.md. On demand in us-east-1; on spot instances, give what "
        "you pay with --price."
    )


def _row(one: Estimate) -> str:
    return f"{one.hours:7,.1f} h  ${one.usd:8,.2f}  {one.images_per_second:8,.0f} images/s  {one.bottleneck} binds"
