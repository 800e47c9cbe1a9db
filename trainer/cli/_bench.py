"""`trainer bench`: figures of this machine, as ratios of one run."""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path

from trainer.cli._terminal import show_table
from trainer.config import load_recipe
from trainer.dataset import open_dataset
from trainer.performance import bench_train, make_photos
from trainer.world import join_world


def run(options: argparse.Namespace) -> int:
    """Time training on one device and print the figures."""
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
