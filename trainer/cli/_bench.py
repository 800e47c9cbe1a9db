"""`trainer bench`: figures of this machine, as ratios of one run."""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from pathlib import Path
from statistics import median

from trainer.cli._terminal import console, show_table
from trainer.config import load_recipe
from trainer.dataset import Dataset, open_dataset
from trainer.distributed import join_world
from trainer.performance import (
    bench_check,
    bench_loader,
    bench_loop,
    bench_open,
    bench_prepare,
    bench_train,
    defaults,
    make_sample,
    measure,
)

PHOTOS = 512  # made where no data set is given


def run(options: argparse.Namespace) -> int:
    """Measure what was asked for and print the figures."""
    if options.what == "train":
        return _train(options)
    if options.what == "loader":
        return _loader(options)
    if options.what == "loop":
        return _loop(options)
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
    recipe = load_recipe(options.recipe, options.set).at_full_size()
    with tempfile.TemporaryDirectory() as folder, join_world(options.device) as world:
        dataset = _photos(options, Path(folder))
        if world.device.type == "cuda":
            choice = measure(recipe, dataset.train, world, decoder=options.decoder, tell=console.print)
        else:
            choice = defaults(recipe, options.decoder)
        figures = bench_train(
            choice.of(recipe),
            dataset.train,
            world,
            steps=options.steps,
            rounds=options.rounds,
            decoder=choice.decoder,
            profile=options.profile,
        )
    if options.json:
        print(json.dumps({**figures, "tried": choice.tried}))
        return 0
    speed, phases = figures["images_per_second"], figures["step_ms"]
    share = figures["bandwidth_share"]  # counted for ResNet-50 only
    bound = (
        {"memory": f"{share:.0%} of {figures['memory_gb_per_second']:,.0f} GB/s"} if share is not None else {}
    )
    show_table(
        f"{figures['device']}, {figures['precision']}, {figures['micro_batch']} images of {figures['train_size']} px "
        f"at a time, {figures['speed']}, decoded on {figures['decoder']}, medians of {figures['rounds']} rounds",
        {
            "synthetic": f"{speed['synthetic']:,.1f} images/s, {figures['synthetic_to_plain']:.2f} of the plain loop",
            "real JPEGs": f"{speed['real']:,.1f} images/s, {figures['real_to_synthetic']:.3f} of synthetic, "
            f"{figures['data_wait_share']:.1%} of the time waiting for data",
            "loader": f"{speed['loader']:,.1f} images/s without training",
            "plain loop": f"{speed['plain']:,.1f} images/s, as people write it",
            "validation": f"{speed['validation']:,.1f} images/s: {figures['validation_share']:.1%} of an epoch of "
            "ImageNet",
            "a step": ", ".join(f"{name} {spent:.1f} ms" for name, spent in phases.items()),
            **bound,
            "arithmetic": f"{figures['flops_share']:.0%} of {figures['matmul_peak_tflops']:,.1f} TFLOP/s, "
            f"{figures['gflop_per_image']:.1f} GFLOP an image",
        },
    )
    return 0


def _loop(options: argparse.Namespace) -> int:
    recipe = load_recipe(options.recipe, options.set).at_full_size()
    with tempfile.TemporaryDirectory() as folder, join_world(options.device) as world:
        dataset = _photos(options, Path(folder))
        recipe = defaults(recipe, None).of(recipe)
        figures = bench_loop(recipe, dataset, world, steps=options.steps, rounds=options.rounds)
    if options.json:
        print(json.dumps(figures))
        return 0
    speed, (low, high) = figures["steps_per_second"], figures["loop_to_bare_95"]
    show_table(
        f"{figures['rounds']:,} rounds of {figures['steps']:,} steps of {figures['batch']} images each",
        {
            "training": f"{speed['loop']:.2f} steps/s, {figures['loop_to_bare']:.3f} of the bare loop "
            f"(with 95 %: {low:.3f} to {high:.3f})",
            "bare loop": f"{speed['bare']:.2f} steps/s",
        },
    )
    return 0


def _photos(options: argparse.Namespace, folder: Path) -> Dataset:
    """The data set that was named, or photos made in the folder."""
    return open_dataset(options.data) if options.data else make_sample(folder, images=PHOTOS)


def _loader(options: argparse.Namespace) -> int:
    recipe = load_recipe(
        "rn50-baseline", [f"global_batch={options.batch_size}", f"batch_per_gpu={options.batch_size}"]
    )
    with tempfile.TemporaryDirectory(dir=options.scratch) as folder, join_world(options.device) as world:
        dataset = (
            open_dataset(options.data) if options.data else make_sample(Path(folder), images=options.sample)
        )
        (Path(folder) / "forms").mkdir()
        figures = bench_loader(
            dataset.train,
            recipe,
            world,
            Path(folder) / "forms",
            images=options.images,
            rounds=options.rounds,
            cold=options.cold,
            shorter_side=options.shorter_side or (),
            only=options.only or (),
        )
    if options.json:
        print(json.dumps(figures))
        return 0
    rows = {}
    for name in figures["turns"]:
        rows[name] = (
            f"{figures['images_per_second'][name]:,.0f} images/s, "
            f"{figures['images_per_cpu_second'][name]:,.0f} per CPU second"
        )
        if name in figures["ours_to"]:
            ours = figures["ours_to"][name]
            rows[name] += (
                f"; ours is {ours['images_per_second']:.3f} and {ours['images_per_cpu_second']:.3f} of it"
            )
    show_table(
        f"{figures['images']:,} images{' not in memory' if options.cold else ''}, batches of {figures['batch']}, "
        f"{figures['threads']} DALI threads, medians of {figures['rounds']} rounds",
        rows,
    )
    return 0
