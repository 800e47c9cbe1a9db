"""`trainer estimate`: hours and dollars before they are spent."""

from __future__ import annotations

import argparse
import dataclasses
import json

from trainer.cli._terminal import show_table
from trainer.config import load_recipe
from trainer.dataset import open_dataset
from trainer.performance import IMAGENET, INSTANCES, JPEG_KB, Estimate, estimate, find_instance


def run(options: argparse.Namespace) -> int:
    """Print what the recipe will take on one instance, or on all that are known."""
    recipe = load_recipe(options.recipe, options.set)
    images, kilobytes, name = IMAGENET, JPEG_KB, "ImageNet as published"
    if options.data:
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
            disk_reads=options.disk_iops,
            usd_per_hour=options.price,
        )
        for instance, facts in wanted.items()
    }
    if options.json:
        print(json.dumps({instance: dataclasses.asdict(one) for instance, one in made.items()}))
        return 0
    sizes = " to ".join(str(size) for size in dict.fromkeys((recipe.train_size(0), recipe.images.train_size)))
    what = f"{recipe.name}, {recipe.epochs} epochs at {sizes} px of {name}, {images[0]:,} images"
    rows = {instance: _row(one) for instance, one in made.items()}
    if options.instance:
        one = made[options.instance]
        rows |= {f"… {part}": f"allows {rate:,.0f} images/s" for part, rate in one.limits.items()}
        rows["disk"] = f"{one.disk_gb:,.0f} GB of images, and room for the archive while it is read"
    show_table(what, rows)
    basis = "the images/s that were given" if options.images_per_second else "published facts"
    print(
        f"\nA prediction from {basis}, see docs/performance.md. On demand in us-east-1; on spot instances, give what you "
        "pay with --price."
    )
    return 0


def _row(one: Estimate) -> str:
    return f"{one.hours:7,.1f} h  ${one.usd:8,.2f}  {one.images_per_second:8,.0f} images/s  {one.binds} binds"
