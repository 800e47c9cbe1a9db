"""`trainer bench`: figures of this machine, as ratios of one run."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from statistics import median

from trainer.cli._terminal import show_table
from trainer.config import load_recipe
from trainer.dataset import open_dataset
from trainer.performance import bench_check, bench_open, bench_prepare, bench_train, make_photos
from trainer.world import join_world


def run(options: argparse.Namespace) -> int:
    """Measure what was asked for and print the figures."""
    if options.what == "train":
        return _train(options)
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder:
        match options.what:
            case "prepare":
                figures = bench_prepare(Path(folder), images=options.images)
                rows = {
                    "tar and find": f"{median(figures['seconds']['tar']):.1f} s",
                    "prepare": f"{median(figures['seconds']['trainer']):.1f} s, {figures['speed_ratio']:.2f} times as fast",
                    "written": f"{figures['bytes_ratio'] or 0:.2f} of the bytes",
                }
            case "check":
                figures = bench_check(Path(folder), images=options.images)
                speed = figures["images_per_second"]
                rows = {
                    "Pillow": f"{speed['pillow']:,.0f} images/s",
                    "check": f"{speed['trainer']:,.0f} images/s, {figures['speed_ratio']:.2f} times as fast",
                }
            case _:
                figures = bench_open(Path(folder), load_recipe("rn50-baseline", ["global_batch=128"]))
                rows = {
                    "open": f"{figures['seconds']['open']:.2f} s",
                    "first batch": f"{figures['seconds']['to_first_batch']:.2f} s after the start, of {figures['batch']} images",
                }
    if options.json:
        print(json.dumps(figures))
    else:
        count = figures["images"]
        show_table(f"{count:,} images, {os.cpu_count()} processors", rows)
    return 0


def _train(options: argparse.Namespace) -> int:
    recipe = load_recipe(options.recipe, options.set)
    with tempfile.TemporaryDirectory() as folder, join_world(options.device) as world:
        split = open_dataset(options.data).train if options.data else make_photos(Path(folder))
        figures = bench_train(recipe, split, world, steps=options.steps)
    if options.json:
        print(json.dumps(figures))
        return 0
    speed = figures["images_per_second"]
    show_table(
        f"{figures['device']}, {figures['precision']}, {figures['micro_batch']} images of {figures['train_size']} px",
        {
            "synthetic": f"{speed['synthetic']:,.1f} images/s",
            "real JPEGs": f"{speed['real']:,.1f} images/s, {figures['real_to_synthetic']:.2f} of synthetic",
            "waiting": f"{figures['data_wait_share']:.1%} of the time for data",
        },
    )
    return 0
