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
from trainer.errors import DeviceError

if TYPE_CHECKING:
    from trainer.config import DeviceChoice
    from trainer.performance import LoaderBench, TrainBench

NEEDED = (
    "filelock",
    "hypothesis",
    "isal",
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
STEPS = {"cuda": 20, "cpu": 2}
PHOTOS = {"cuda": 2048, "cpu": 64}
IMAGES = {"cuda": 8192, "cpu": 64}
SETTINGS = {"cuda": ["global_batch=512"], "cpu": ["global_batch=8", "preprocess.train_size=64"]}
ROUNDS = 2
PRECISIONS = ("fp16", "bf16")
GPU_TESTS = ("tests/training", "tests/dataloader")
SEARCHED, HEURISTIC = "cuDNN's search", "cuDNN's heuristic"
ASLEEP, SPINNING = "waiting asleep", "waiting in a loop"


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
    """All results, as in the JSON file."""

    date: str  # UTC
    commit: str
    driver: str
    machine: str  # architecture of the CPU
    tests: Outcomes
    train: dict[str, Autotuned]  # by the recipe's precision
    contenders: dict[
        str, dict[str, float]
    ]  # images_per_second and busy_cores, by setting made before the first use
    loader: LoaderBench | None  # None: not measured


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
        default=Path("docs/performance"),
        metavar="DIR",
        help="folder for DATE-DEVICE.json and DATE-DEVICE.md (default: docs/performance)",
    )
    parser.add_argument(
        "--skip",
        action="append",
        default=[],
        choices=("tests", "contenders", "loader"),
        help="part to leave out where rented time is short; repeat it for several",
    )
    parser.add_argument(
        "--precision",
        action="append",
        choices=PRECISIONS,
        help=f"precision to train in; repeat it for several (default: {' and '.join(PRECISIONS)})",
    )
    parser.add_argument(
        "--rounds",
        type=int,
        default=ROUNDS,
        metavar="N",
        help=f"rounds of each benchmark (default: {ROUNDS})",
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
        precisions = options.precision or PRECISIONS
        result = check(options.device, skip=options.skip, precisions=precisions, rounds=options.rounds)
        name = re.sub(r"\W+", "-", _device(result)).strip("-").lower()
        out: Path = options.out / f"{result.date}-{name}"
        options.out.mkdir(parents=True, exist_ok=True)
        out.with_name(f"{out.name}.json").write_text(json.dumps(dataclasses.asdict(result), indent=1) + "\n")
        page = out.with_name(f"{out.name}.md")
        page.write_text(table(result))
        print(page.read_text())
        print(f"gpu-check: written to {page}; the row for README.md:\n{readme_row(result, page)}")
        if options.device == "cuda" and options.out == Path("docs/performance"):
            readme = Path("README.md")
            readme.write_text(put_row(readme.read_text(), readme_row(result, page)))
            print("gpu-check: README.md has it now")
        return 1 if result.tests.failed else 0

    return exit_code(work, "gpu-check")


def check(
    device: DeviceChoice,
    *,
    skip: Sequence[str] = (),
    precisions: Sequence[str] = PRECISIONS,
    rounds: int = ROUNDS,
) -> GpuCheck:
    """Run the tests, then the benchmarks in each precision, without single settings, and of the loaders."""
    from benchmarks.peers import peers
    from trainer.config import load_recipe
    from trainer.distributed import join_world
    from trainer.performance import BASELINES, bench_loader, bench_train, make_sample, measure

    tests = Outcomes(0, 0, 0) if "tests" in skip else _run_tests()
    train: dict[str, Autotuned] = {}
    loader, contenders = None, {}
    with tempfile.TemporaryDirectory() as folder, join_world(device) as world:
        kind = world.device.type
        photos = make_sample(Path(folder) / "photos", images=PHOTOS[kind]).train
        for precision in precisions:
            recipe = load_recipe("rn50-baseline", [*SETTINGS[kind], f"precision={precision}"])
            # On the CPU the trials run as well, or nothing but a GPU would ever have run them. Of ImageNet's length,
            # a run is worth all trials; these photos are few.
            tuned = measure(recipe, photos, world, steps=STEPS[kind], short_run=0)
            bench = bench_train(recipe, photos, world, tuned.execution, steps=STEPS[kind], rounds=rounds)
            train[precision] = Autotuned(bench, tuned.throughputs)
        if "contenders" not in skip:
            small = train[precisions[0]].bench
            contenders = _contenders(device, photos.root, small.micro_batch, small.train_size)
        if "loader" not in skip:
            (Path(folder) / "formats").mkdir()
            loader = bench_loader(
                photos,
                recipe,
                world,
                Path(folder) / "formats",
                images=IMAGES[kind],
                rounds=rounds,
                baselines={**BASELINES, **peers()},
            )
    return GpuCheck(
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        commit=_output("git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"),
        driver=_output("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"),
        machine=platform.machine(),
        tests=tests,
        train=train,
        contenders=contenders,
        loader=loader,
    )


def _contenders(device: DeviceChoice, photos: Path, batch: int, size: int) -> dict[str, dict[str, float]]:
    """Training with and without each setting that a process can make only once, in processes of their own."""

    def measured(*arguments: str) -> dict[str, float]:
        command = [sys.executable, "-m", "benchmarks.gpu_contender", f"--device={device}", f"--batch={batch}"]
        run = subprocess.run([*command, f"--size={size}", *arguments], capture_output=True, text=True)
        if run.returncode:
            raise DeviceError(
                f"a measurement ended with exit code {run.returncode}: {run.stderr.strip()[-300:]}"
            )
        result: dict[str, float] = json.loads(run.stdout.splitlines()[-1])
        return result

    fed = f"--photos={photos}"
    return {
        SEARCHED: measured(),
        HEURISTIC: measured("--without=cudnn-search"),
        ASLEEP: measured(fed),
        SPINNING: measured(fed, "--without=blocking-sync"),
    }


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


def _device(result: GpuCheck) -> str:
    return next(iter(result.train.values())).bench.environment.device


def verdict(result: GpuCheck) -> list[str]:
    """What the figures say, a sentence a line."""
    lines: list[str] = []
    best = max(result.train.values(), key=lambda tuned: tuned.bench.images_per_second["synthetic"]).bench
    by_precision = {name: tuned.bench.images_per_second["synthetic"] for name, tuned in result.train.items()}
    if len(by_precision) > 1:
        (first, mine), (second, theirs) = by_precision.items()
        lines.append(f"{first} makes {mine / theirs:.2f} times the images of {second}.")
    for name, tuned in result.train.items():
        for question in (r"\d+ images", "off|default|cudagraphs", "mixed|cpu|mixed-huffman"):
            tried = {key: value for key, value in tuned.throughputs.items() if re.fullmatch(question, key)}
            if len(tried) > 1:
                ranked = sorted(tried, key=lambda key: -tried[key])
                others = ", ".join(f"{tried[ranked[0]] / tried[key]:.2f} times {key}" for key in ranked[1:])
                lines.append(f"{name}: {ranked[0]} wins: {others}.")
    if contenders := result.contenders:
        ratio = contenders[SEARCHED]["images_per_second"] / contenders[HEURISTIC]["images_per_second"]
        lines.append(f"{SEARCHED} makes {ratio:.2f} times the images of its heuristic.")
        asleep, spinning = contenders[ASLEEP], contenders[SPINNING]
        lines.append(
            f"Training on JPEGs keeps {asleep['busy_cores']:.1f} processors at work, "
            f"{spinning['busy_cores']:.1f} where CUDA waits in a loop; images/s "
            f"{asleep['images_per_second'] / spinning['images_per_second']:.2f} times as many."
        )
    if (share := best.roofline.bandwidth_share) is not None:
        lines.append(
            f"The best reaches {share:.0%} of what the memory bandwidth allows without fused passes."
        )
    lines.append(
        f"It waits for JPEGs {best.data_wait_share:.1%} of the time, at {best.real_to_synthetic:.2f} of its synthetic "
        f"images/s, and makes {best.synthetic_to_plain:.2f} times the plain loop's."
    )
    if (memory := best.gpu_memory) is not None:
        lines.append(
            f"Memory: torch {memory.torch:.1f} GiB (tensors {memory.torch_peak:.1f}), DALI, CUDA and libraries "
            f"{memory.others:.1f}, free {memory.free:.1f}."
        )
    execution = best.execution
    lines.append(
        f"Recommended: --batch-per-gpu {best.micro_batch} --compile {execution.compile} --decoder {execution.decoder}, "
        f"in {best.precision}."
    )
    return lines


def readme_row(result: GpuCheck, page: Path) -> str:
    """The row of README.md's table of GPUs."""
    best = max(result.train.values(), key=lambda tuned: tuned.bench.images_per_second["real"]).bench
    return (
        f"| {_device(result)} | {best.images_per_second['real']:,.0f} | {best.images_per_second['synthetic']:,.0f} | "
        f"{best.precision}, {best.micro_batch} at a time, compile {best.execution.compile}, decoder "
        f"{best.execution.decoder} | [{result.date}]({page.as_posix()}), {result.commit[:7]} |"
    )


def put_row(readme: str, row: str) -> str:
    """README.md's text with the row of a GPU replaced, or added behind the others.

    Raises: ValueError if README.md has no table of GPUs.
    """
    lines = readme.split("\n")
    head = next((index for index, line in enumerate(lines) if line.startswith("| GPU |")), None)
    if head is None:
        raise ValueError("README.md has no table that begins with | GPU |")
    end = next(index for index in range(head, len(lines)) if not lines[index].startswith("|"))
    name = row.split("|")[1]
    rows = [line for line in lines[head + 2 : end] if line.split("|")[1] not in (name, " none yet ")]
    return "\n".join([*lines[: head + 2], *rows, row, *lines[end:]])


def table(result: GpuCheck) -> str:
    """The results as Markdown."""
    here, tests, loader = next(iter(result.train.values())).bench.environment, result.tests, result.loader
    lines = [
        f"# {here.device}, {result.date}",
        "",
        f"Driver {result.driver}, torch {here.torch}, DALI {here.dali}, "
        f"Python {here.python}, {here.cpu_cores} CPU cores, commit {result.commit}.",
        "",
        f"Tests marked `gpu`: {tests.passed} passed, {tests.failed} failed, {tests.skipped} skipped.",
        "",
        *(f"- {line}" for line in verdict(result)),
        "",
        "| precision wanted | precision used | micro-batch | px | compile | decoder | synthetic images/s | "
        "to the plain loop | real images/s | real to synthetic | data wait | validation's share of an epoch | "
        "of memory bandwidth | of matmul FLOP/s | torch GiB | busy cores |",
        "|" + "---|" * 16,
    ]
    for wanted, tuned in result.train.items():
        run, throughput, limits = tuned.bench, tuned.bench.images_per_second, tuned.bench.roofline
        memory = "-" if run.gpu_memory is None else f"{run.gpu_memory.torch_peak:.1f}"
        bandwidth = "-" if limits.bandwidth_share is None else f"{limits.bandwidth_share:.0%}"
        lines.append(
            f"| {wanted} | {run.precision} | {run.micro_batch} | {run.train_size} | {run.execution.compile} | "
            f"{run.execution.decoder} | {throughput['synthetic']:,.1f} | {run.synthetic_to_plain:.2f} | "
            f"{throughput['real']:,.1f} | {run.real_to_synthetic:.3f} | {run.data_wait_share:.1%} | "
            f"{run.validation_share:.1%} | {bandwidth} | {limits.flops_share:.0%} | {memory} | "
            f"{run.busy_cores['real']:.1f} |"
        )
    lines += ["", "Trials of the autotuner, images/s:", ""]
    for wanted, tuned in result.train.items():
        trials = ", ".join(f"{name} {throughput:,.1f}" for name, throughput in tuned.throughputs.items())
        lines.append(f"- {wanted}: {trials}")
    if loader is None:
        return "\n".join(lines) + "\n"
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
