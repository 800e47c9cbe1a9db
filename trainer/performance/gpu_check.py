"""`scripts/gpu-check`: the `gpu` tests and the timed steps, as one JSON file and one table."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

NEEDED = (
    "hypothesis",
    "simplejpeg",
    "nvidia.dali",
    "pydantic",
    "pytest",
    "pytest_timeout",
    "rich",
    "torch",
    "torchvision",
    "yaml",
)

# A real batch on a GPU; on the CPU the same code, small enough to end.
STEPS = {"cuda": 30, "cpu": 2}
PHOTOS = {"cuda": 4096, "cpu": 64}
IMAGES = {"cuda": 8192, "cpu": 64}
SETTINGS = {
    "cuda": ["global_batch=256", "batch_per_gpu=auto"],
    "cpu": ["global_batch=8", "batch_per_gpu=auto", "images.train_size=64"],
}


def main() -> int:
    """Run everything; exit 0 if all tests passed, 1 if one failed, 2 if something is missing."""
    parser = argparse.ArgumentParser(prog="scripts/gpu-check")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    missing = [name for name in NEEDED if not _installed(name)]
    if missing:
        print(
            f"gpu-check: not installed here: {', '.join(missing)}; `./scripts/install --group test` brings them all, "
            "or carry them here",
            file=sys.stderr,
        )
        return 2

    from trainer.config import load_recipe
    from trainer.distributed import join_world
    from trainer.errors import TrainerError
    from trainer.performance import bench_loader, bench_train, make_sample, measure

    tests = _tests()
    train: dict[str, Any] = {}
    try:
        with tempfile.TemporaryDirectory() as folder, join_world(options.device) as world:
            here = world.device.type
            photos = make_sample(Path(folder) / "photos", images=PHOTOS[here]).train
            for precision in ("bf16", "fp16"):
                recipe = load_recipe("rn50-baseline", [*SETTINGS[here], f"precision={precision}"])
                # On the CPU the trials run as well, or nothing but a GPU would ever have run them.
                choice = measure(recipe, photos, world, decoder=None, tell=print, steps=STEPS[here])
                figures = bench_train(
                    choice.of(recipe), photos, world, steps=STEPS[here], rounds=3, decoder=choice.decoder
                )
                train[precision] = {**figures, "tried": choice.tried}
            (Path(folder) / "forms").mkdir()
            loader = bench_loader(
                photos, recipe, world, Path(folder) / "forms", images=IMAGES[here], rounds=3
            )
    except TrainerError as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return error.exit_code
    result = {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": _output("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"),
        "driver": _output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        "dali": version("nvidia-dali-cuda130"),
        "cpu_cores": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "tests": tests,
        "train": train,
        "loader": loader,
    }
    device = re.sub(r"\W+", "-", train["bf16"]["device"] or options.device).strip("-").lower()
    out = options.out or Path("docs/performance") / f"{result['date']}-{device}"
    out.mkdir(parents=True, exist_ok=True)
    (out / "gpu-check.json").write_text(json.dumps(result, indent=1) + "\n")
    (out / "gpu-check.md").write_text(_table(result))
    print((out / "gpu-check.md").read_text())
    print(f"gpu-check: written to {out}")
    return 1 if tests["failed"] else 0


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _tests() -> dict[str, int]:
    """Run the tests marked `gpu`; how many passed, failed and were skipped."""
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-m",
            "gpu",
            "--override-ini=timeout=300",
            "tests/training",
            "tests/data",
        ],
        capture_output=True,
        text=True,
    )
    print(run.stdout[-6000:], run.stderr[-2000:])
    counts = {what: re.search(rf"(\d+) {what}", run.stdout) for what in ("passed", "failed", "skipped")}
    counted = {what: int(found[1]) if found else 0 for what, found in counts.items()}
    if run.returncode not in (0, 1):  # neither passed nor failed: pytest itself did not get through
        counted["failed"] += 1
    return counted


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _table(result: dict[str, Any]) -> str:
    first = next(iter(result["train"].values()))
    lines = [
        f"# GPU check, {result['date']}",
        "",
        f"{first['device'] or 'CPU'}, driver {result['driver']}, torch {first['torch']}, DALI {result['dali']}, "
        f"Python {first['python']}, {result['cpu_cores']} CPU cores, commit {result['commit']}.",
        "",
        "Tests marked `gpu`: "
        + ", ".join(f"{count} {what}" for what, count in result["tests"].items())
        + ".",
        "",
        "| wanted | ran as | batch | px | network | decoded on | synthetic images/s | to the plain loop | real images/s | "
        "real to synthetic | data wait | validation's share of an epoch | of the memory's speed | of the arithmetic | "
        "GPU GiB |",
        "|" + "---|" * 15,
    ]
    for wanted, run in result["train"].items():
        speed = run["images_per_second"]
        memory = "-" if run["gpu_memory_gib"] is None else f"{run['gpu_memory_gib']:.1f}"
        lines.append(
            f"| {wanted} | {run['precision']} | {run['micro_batch']} | {run['train_size']} | {run['speed']} | "
            f"{run['decoder']} | {speed['synthetic']:,.1f} | {run['synthetic_to_plain']:.2f} | {speed['real']:,.1f} | "
            f"{run['real_to_synthetic']:.3f} | {run['data_wait_share']:.1%} | {run['validation_share']:.1%} | "
            f"{run['bandwidth_share']:.0%} | "
            f"{run['flops_share']:.0%} | {memory} |"
        )
    lines += ["", "LrPoint before, images/s:", ""]
    for wanted, run in result["train"].items():
        lines.append(
            f"- {wanted}: " + ", ".join(f"{name} {rate:,.1f}" for name, rate in run["tried"].items())
        )
    loader = result["loader"]
    lines += [
        "",
        f"Batches of {loader['batch']}, without training:",
        "",
        "| | images/s | images per CPU second |",
        "|---|---|---|",
    ]
    for name in loader["turns"]:
        lines.append(
            f"| {name} | {loader['images_per_second'][name]:,.0f} | {loader['images_per_cpu_second'][name]:,.0f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
