"""`scripts/gpu-check`: the `gpu` tests, then training and loader benchmarks, as one JSON file and one table."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import platform
import re
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks._program import exit_code, make_parser

if TYPE_CHECKING:
    from trainer.config import DeviceChoice
    from trainer.performance import LoaderBench, TrainBench

NEEDED = (
    "filelock",
    "hypothesis",
    "nvidia.dali",
    "psutil",
    "pydantic",
    "pytest",
    "pytest_timeout",
    "rich",
    "simplejpeg",
    "torch",
    "torchvision",
    "yaml",
)

# A real batch on a GPU; on the CPU the same code, with figures small enough to end soon.
STEPS = {"cuda": 30, "cpu": 2}
PHOTOS = {"cuda": 4096, "cpu": 64}
IMAGES = {"cuda": 8192, "cpu": 64}
SETTINGS = {"cuda": ["global_batch=256"], "cpu": ["global_batch=8", "preprocess.train_size=64"]}
ROUNDS = 3
GPU_TESTS = ("tests/training", "tests/dataloader")


@dataclass(frozen=True)
class Outcomes:
    """Outcomes of the tests marked `gpu`."""

    passed: int
    failed: int
    skipped: int


@dataclass(frozen=True)
class Autotuned:
    """A training benchmark, and the trials that decided how it ran."""

    bench: TrainBench
    throughputs: dict[str, float]  # images/s, by setting tried


@dataclass(frozen=True)
class GpuCheck:
    """All results, as in gpu-check.json."""

    date: str  # UTC
    commit: str
    driver: str
    machine: str  # architecture of the CPU
    tests: Outcomes
    train: dict[str, Autotuned]  # by the recipe's precision
    loader: LoaderBench


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; exit 0 if all tests passed, 1 if one failed, 2 if something is missing."""
    parser = make_parser("gpu_check", "The tests and measurements that need a GPU.")
    parser.add_argument(
        "--device",
        choices=("cuda", "cpu"),
        default="cuda",
        help="device to measure; the CPU only shows that the code runs (default: cuda)",
    )
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR",
        help="folder for gpu-check.json and gpu-check.md (default: docs/performance/DATE-DEVICE)",
    )
    options = parser.parse_args(arguments)
    missing = [name for name in NEEDED if not _installed(name)]
    if missing:
        print(
            f"gpu-check: not installed here: {', '.join(missing)}; `./scripts/install --group test` brings them all, "
            "or carry them here",
            file=sys.stderr,
        )
        return 2

    def work() -> int:
        result = check(options.device)
        device = result.train["bf16"].bench.environment.device or options.device
        name = re.sub(r"\W+", "-", device).strip("-").lower()
        out: Path = options.out or Path("docs/performance") / f"{result.date}-{name}"
        out.mkdir(parents=True, exist_ok=True)
        (out / "gpu-check.json").write_text(json.dumps(dataclasses.asdict(result), indent=1) + "\n")
        (out / "gpu-check.md").write_text(table(result))
        print((out / "gpu-check.md").read_text())
        print(f"gpu-check: written to {out}")
        return 1 if result.tests.failed else 0

    return exit_code(work, "gpu-check")


def check(device: DeviceChoice) -> GpuCheck:
    """Run the tests, then the benchmarks in bf16 and fp16."""
    from benchmarks.peers import peers
    from trainer.config import load_recipe
    from trainer.distributed import join_world
    from trainer.performance import BASELINES, bench_loader, bench_train, make_sample, measure

    tests = _run_tests()
    train: dict[str, Autotuned] = {}
    with tempfile.TemporaryDirectory() as folder, join_world(device) as world:
        kind = world.device.type
        photos = make_sample(Path(folder) / "photos", images=PHOTOS[kind]).train
        for precision in ("bf16", "fp16"):
            recipe = load_recipe("rn50-baseline", [*SETTINGS[kind], f"precision={precision}"])
            # On the CPU the trials run as well, or nothing but a GPU would ever have run them.
            tuned = measure(recipe, photos, world, steps=STEPS[kind])
            bench = bench_train(recipe, photos, world, tuned.execution, steps=STEPS[kind], rounds=ROUNDS)
            train[precision] = Autotuned(bench, tuned.throughputs)
        (Path(folder) / "formats").mkdir()
        loader = bench_loader(
            photos,
            recipe,
            world,
            Path(folder) / "formats",
            images=IMAGES[kind],
            rounds=ROUNDS,
            baselines={**BASELINES, **peers()},
        )
    return GpuCheck(
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        commit=_output("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"),
        driver=_output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        machine=platform.machine(),
        tests=tests,
        train=train,
        loader=loader,
    )


def _installed(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def _run_tests() -> Outcomes:
    """Run the tests marked `gpu` in a process of their own."""
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-m", "gpu", "--override-ini=timeout=300", *GPU_TESTS],
        capture_output=True,
        text=True,
    )
    print(run.stdout[-6000:], run.stderr[-2000:])

    def count(outcome: str) -> int:
        found = re.search(rf"(\d+) {outcome}", run.stdout)
        return int(found[1]) if found else 0

    crashed = run.returncode not in (0, 1)  # neither passed nor failed: pytest itself did not get through
    return Outcomes(count("passed"), count("failed") + crashed, count("skipped"))


def _output(*command: str) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def table(result: GpuCheck) -> str:
    """The results as Markdown."""
    here, tests, loader = result.loader.environment, result.tests, result.loader
    lines = [
        f"# GPU check, {result.date}",
        "",
        f"{here.device or 'CPU'}, driver {result.driver}, torch {here.torch}, DALI {here.dali}, "
        f"Python {here.python}, {here.cpu_cores} CPU cores, commit {result.commit}.",
        "",
        f"Tests marked `gpu`: {tests.passed} passed, {tests.failed} failed, {tests.skipped} skipped.",
        "",
        "| precision wanted | precision used | micro-batch | px | compile | decoder | synthetic images/s | "
        "to the plain loop | real images/s | real to synthetic | data wait | validation's share of an epoch | "
        "of memory bandwidth | of matmul FLOP/s | GPU GiB |",
        "|" + "---|" * 15,
    ]
    for wanted, tuned in result.train.items():
        run, throughput, limits = tuned.bench, tuned.bench.images_per_second, tuned.bench.roofline
        memory = "-" if run.gpu_memory_gib is None else f"{run.gpu_memory_gib:.1f}"
        bandwidth = "-" if limits.bandwidth_share is None else f"{limits.bandwidth_share:.0%}"
        lines.append(
            f"| {wanted} | {run.precision} | {run.micro_batch} | {run.train_size} | {run.execution.compile} | "
            f"{run.execution.decoder} | {throughput['synthetic']:,.1f} | {run.synthetic_to_plain:.2f} | "
            f"{throughput['real']:,.1f} | {run.real_to_synthetic:.3f} | {run.data_wait_share:.1%} | "
            f"{run.validation_share:.1%} | {bandwidth} | {limits.flops_share:.0%} | {memory} |"
        )
    lines += ["", "Trials of the autotuner, images/s:", ""]
    for wanted, tuned in result.train.items():
        trials = ", ".join(f"{name} {throughput:,.1f}" for name, throughput in tuned.throughputs.items())
        lines.append(f"- {wanted}: {trials}")
    lines += [
        "",
        f"Batches of {loader.global_batch}, without training:",
        "",
        "| | images/s | images per CPU second |",
        "|---|---|---|",
    ]
    for name, measured in loader.median.items():
        lines.append(
            f"| {name} | {measured.images_per_second:,.0f} | {measured.images_per_cpu_second:,.0f} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    raise SystemExit(main())
