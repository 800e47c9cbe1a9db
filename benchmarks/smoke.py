"""`scripts/bench-smoke`: small measurements whose ratios must not fall far; exit 1 if one has."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks._program import exit_code, make_parser
from benchmarks.loop import bench_loop
from benchmarks.peers import torchvision_v2
from trainer.config import load_recipe
from trainer.distributed import join_world
from trainer.performance import BASELINES, bench_loader, defaults, make_sample

# What a ratio must reach. The figures of docs/performance.md are well above: what fails here is no noise.
MIN_PER_CPU_SECOND = {"dali_reader": 0.85, "torchvision": 1.3, "torchvision_v2": 0.9}
MIN_LOOP = 0.85
PHOTOS = 512


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print what has fallen; the exit code."""
    make_parser("smoke", "Small measurements against wide margins.").parse_args(arguments)
    return exit_code(_measure, "benchmarks.smoke")


def _measure() -> int:
    rows: list[tuple[str, float, float]] = []
    with tempfile.TemporaryDirectory() as folder, join_world("cpu") as world:
        root = Path(folder)
        dataset = make_sample(root / "photos", images=PHOTOS)
        (root / "formats").mkdir()
        loader = bench_loader(
            dataset.train,
            load_recipe("rn50-baseline", ["global_batch=64"]),
            world,
            root / "formats",
            images=PHOTOS,
            rounds=3,
            baselines={**BASELINES, "torchvision_v2": torchvision_v2},
            only=MIN_PER_CPU_SECOND,
        )
        for name, least in MIN_PER_CPU_SECOND.items():
            rows.append(
                (f"batches per CPU second, to {name}", loader.ratio[name].images_per_cpu_second, least)
            )
        loop = bench_loop(
            load_recipe("digits", ["global_batch=16"]),
            dataset,
            world,
            defaults(batch_per_gpu=16).execution,
            steps=4,
            rounds=12,
        )
        rows.append(("training, to its bare steps", loop.loop_to_bare, MIN_LOOP))
    for what, ratio, least in rows:
        print(f"{what:<45} {ratio:6.3f}   at least {least:.2f}{'' if ratio >= least else '   TOO SLOW'}")
    return int(any(ratio < least for _, ratio, least in rows))


if __name__ == "__main__":
    raise SystemExit(main())
