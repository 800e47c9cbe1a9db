"""`scripts/bench-smoke`: ratios that must not fall far, measured small; exit 1 if one has."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from trainer.config import load_recipe
from trainer.distributed import join_world
from trainer.performance import bench_loader, bench_loop, defaults, make_sample

# What a ratio must reach. The figures of docs/performance.md are well above: what fails here is no noise.
PER_CPU_SECOND = {"dali_reader": 0.85, "torchvision": 1.3, "torchvision_v2": 0.9}
LOOP = 0.85


def main() -> int:
    """Measure, print, and say what has fallen."""
    rows: list[tuple[str, float, float]] = []
    with tempfile.TemporaryDirectory() as folder, join_world("cpu") as world:
        root = Path(folder)
        dataset = make_sample(root / "photos", images=512)
        (root / "forms").mkdir()
        recipe = load_recipe("rn50-baseline", ["global_batch=64", "batch_per_gpu=64"])
        loader = bench_loader(
            dataset.train, recipe, world, root / "forms", images=512, rounds=3, only=PER_CPU_SECOND
        )
        for name, least in PER_CPU_SECOND.items():
            rows.append(
                (
                    f"batches per CPU second, to {name}",
                    loader["ours_to"][name]["images_per_cpu_second"],
                    least,
                )
            )
        small = load_recipe("digits", ["global_batch=16", "batch_per_gpu=16"])
        loop = bench_loop(defaults(small, None).of(small), dataset, world, steps=4, rounds=12)
        rows.append(("training, to its bare steps", loop["loop_to_bare"], LOOP))
    for what, ratio, least in rows:
        print(f"{what:<45} {ratio:6.3f}   at least {least:.2f}{'' if ratio >= least else '   TOO SLOW'}")
    return int(any(ratio < least for _, ratio, least in rows))


if __name__ == "__main__":
    sys.exit(main())
