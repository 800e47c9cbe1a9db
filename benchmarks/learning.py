"""Learning parity: `trainer train`, timm's train.py and torchvision's reference script with equal settings.

    git clone --depth 1 --branch v1.0.28 https://github.com/huggingface/pytorch-image-models
    git clone --depth 1 --branch v0.21.0 https://github.com/pytorch/vision
    apt-get download tuxpaint-stamps-default && dpkg -x tuxpaint-stamps-default_*.deb photos
    python -m benchmarks.learning stamps --photos photos --timm pytorch-image-models --vision vision --out learning

Each training is kept as a file of JSON in --out: the same command goes on where it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks._program import exit_code, make_parser
from benchmarks.photo_sets import make_photo_set
from benchmarks.training_programs import PROGRAMS, Columns, Paths, Settings
from trainer.cli import _args
from trainer.errors import DataError

SETS = {
    "stamps": Settings(photos="stamps", train=480, val=240, size=32, epochs=10, lower_after=8),
    "fashion": Settings(photos="fashion", train=3200, val=3000, size=28, epochs=5, lower_after=4),
    "digits": Settings(photos="digits", train=64, val=64, size=32, epochs=2, lower_after=1),
}
MEASURES = ("val_top1", "train_loss", "val_loss")
TESTED = 0.05  # a smaller p is called a difference


@dataclass(frozen=True)
class Training:
    """One training of one program, a number for each epoch."""

    program: str
    seed: int
    settings: Settings
    seconds: float
    columns: Columns


def run_training(program: str, seed: int, settings: Settings, out: Path, code: Path) -> Training:
    """One training, or what is kept of it in `out`.

    Args:
        program: one of PROGRAMS.
        seed: of everything that it draws.
        settings: what to train.
        out: folder with the data set in photos/; what was said goes to PROGRAM-SEED.json and .log.
        code: the clone of the program.

    Raises: DataError if it fails, or what is kept was trained with other settings.
    """
    name = f"{program}-{seed}"
    kept, log, work = out / f"{name}.json", out / f"{name}.log", out / name
    if kept.exists():
        stored = json.loads(kept.read_text())
        if stored["settings"] != asdict(settings):
            raise DataError(f"{kept} is of other settings; delete it, or give another --out")
        return Training(program, seed, settings, stored["seconds"], Columns(**stored["columns"]))
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    how = PROGRAMS[program]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MLFLOW_TRACKING_URI": ""}
    if how.imports_from:
        environment["PYTHONPATH"] = str(code / how.imports_from)
    command = how.command(settings, seed, Paths(out / "photos", work, code))
    begun = time.monotonic()
    with log.open("w") as file:
        status = subprocess.run(command, env=environment, stdout=file, stderr=subprocess.STDOUT).returncode
    seconds, said = round(time.monotonic() - begun, 1), log.read_text()
    if status:
        raise DataError(f"{program} ended with exit code {status}; see {log}: {said.strip()[-300:]}")
    columns = how.said(settings, work, said)
    if any(column is not None and len(column) != settings.epochs for column in columns):
        raise DataError(f"{log} does not tell of {settings.epochs} epochs; the program is another version's")
    unfinished = work / "training.json"
    result = {"settings": asdict(settings), "seconds": seconds, "columns": columns._asdict()}
    unfinished.write_text(json.dumps(result))
    unfinished.rename(kept)
    shutil.rmtree(work)
    return Training(program, seed, settings, seconds, columns)


Table = npt.NDArray[np.float64]  # (seeds, epochs)


@dataclass(frozen=True)
class Difference:
    """Of two programs in one measure: after the last epoch, and over all epochs."""

    first: str
    second: str
    measure: str
    difference: float  # of the means, first minus second
    difference_95: tuple[float, float]  # Welch
    effect: float  # Hedges' g: the difference in standard deviations
    effect_95: tuple[float, float]
    p: float  # exact permutation test of the difference of means, both sides
    p_epochs: float  # the same of the epoch that differs most, with regard to having looked at all of them
    ranges_overlap: bool  # after the last epoch

    @property
    def overlap(self) -> bool:
        """Whether no test tells the two programs apart."""
        return self.ranges_overlap and min(self.p, self.p_epochs) >= TESTED


def difference(first: str, second: str, measure: str, one: Table, other: Table) -> Difference:
    """Compare the trainings of two programs, each (seeds, epochs).

    Source: Hedges 1981, doi:10.3102/10769986006002107, with the interval of Hedges and Olkin 1985; for all epochs the
        greatest difference in standard deviations of each way to share out the trainings, Westfall and Young 1993.
    """
    from scipy.stats import ttest_ind

    n, m = len(one), len(other)
    low, high = ttest_ind(one[:, -1], other[:, -1], equal_var=False).confidence_interval(0.95)
    gap = one[:, -1].mean() - other[:, -1].mean()
    pooled = ((n - 1) * one[:, -1].var(ddof=1) + (m - 1) * other[:, -1].var(ddof=1)) / (n + m - 2)
    effect = gap / np.sqrt(pooled) * (1 - 3 / (4 * (n + m) - 9))
    error = 1.96 * np.sqrt((n + m) / (n * m) + effect**2 / (2 * (n + m)))

    both = np.concatenate([one, other])
    scaled = (both - both.mean(axis=0)) / both.std(axis=0)
    ways = itertools.combinations(range(n + m), n)  # the first is what was measured
    gaps = np.array(
        [np.abs(scaled[list(way)].mean(axis=0) - np.delete(scaled, way, axis=0).mean(axis=0)) for way in ways]
    )
    measured = gaps[0] * (1 - 1e-9)  # the same sum may be rounded otherwise
    return Difference(
        first,
        second,
        measure,
        difference=float(gap),
        difference_95=(float(low), float(high)),
        effect=float(effect),
        effect_95=(float(effect - error), float(effect + error)),
        p=float((gaps[:, -1] >= measured[-1]).mean()),
        p_epochs=float((gaps.max(axis=1) >= measured.max()).mean()),
        ranges_overlap=bool(
            one[:, -1].min() <= other[:, -1].max() and other[:, -1].min() <= one[:, -1].max()
        ),
    )


def table(trainings: Sequence[Training], program: str, measure: str) -> Table | None:
    """A measure of a program, (seeds, epochs); None if it does not have it."""
    rows = [getattr(each.columns, measure) for each in trainings if each.program == program]
    return None if None in rows else np.array(rows)


def differences(trainings: Sequence[Training]) -> list[Difference]:
    """Of each two programs, in all measures that both have."""
    found = []
    for measure, pair in itertools.product(MEASURES, itertools.combinations(_programs(trainings), 2)):
        one, other = (table(trainings, program, measure) for program in pair)
        if one is not None and other is not None:
            found.append(difference(*pair, measure, one, other))
    return found


def _programs(trainings: Sequence[Training]) -> list[str]:
    return list(dict.fromkeys(training.program for training in trainings))


def show(trainings: Sequence[Training], found: Sequence[Difference]) -> None:
    """Print tables of Markdown."""
    settings, programs = trainings[0].settings, _programs(trainings)
    print(", ".join(f"{key} {value}" for key, value in asdict(settings).items()))
    print(", ".join(f"{name} {version(name)}" for name in ("torch", "torchvision", "timm")))
    rates = {tuple(round(lr, 9) for lr in training.columns.lr) for training in trainings}
    print(f"learning rates are {'the same' if len(rates) == 1 else 'NOT THE SAME'} in all trainings\n")

    print("| | final top-1 | standard deviation | each | seconds |\n|---|---|---|---|---|")
    for program in programs:
        top1 = table(trainings, program, "val_top1")
        assert top1 is not None
        each = ", ".join(f"{value:.3f}" for value in sorted(top1[:, -1]))
        took = np.mean([training.seconds for training in trainings if training.program == program])
        spread = f"{top1[:, -1].std(ddof=1):.3f}" if len(top1) > 1 else "-"
        print(f"| {program} | {top1[:, -1].mean():.3f} | {spread} | {each} | {took:.0f} |")

    if found:
        print("\n| | | difference, 95 % | Hedges' g, 95 % | p | p, all epochs | distributions |")
        print("|---|---|---|---|---|---|---|")
    for gap in found:
        values = (gap.difference, *gap.difference_95, gap.effect, *gap.effect_95)
        row = "{:+.4f} ({:+.4f} to {:+.4f}) | {:+.2f} ({:+.2f} to {:+.2f})".format(*values)
        pair, verdict = f"{gap.first}, {gap.second}", "overlap" if gap.overlap else "**differ**"
        print(f"| {gap.measure} | {pair} | {row} | {gap.p:.3f} | {gap.p_epochs:.3f} | {verdict} |")

    for measure in MEASURES:
        tables = [table(trainings, program, measure) for program in programs]
        print(f"\n| {measure} after epoch | {' | '.join(programs)} |\n|---|{'---|' * len(programs)}")
        for epoch in range(settings.epochs):
            print(f"| {epoch + 1} | {' | '.join(_spread(each, epoch) for each in tables)} |")


def _spread(values: Table | None, epoch: int) -> str:
    """Mean and range over the seeds."""
    if values is None:
        return ""
    column = values[:, epoch]
    return f"{column.mean():.3f} ({column.min():.3f} to {column.max():.3f})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Train, compare and print; the exit code."""
    parser = make_parser("learning", (__doc__ or "").partition("\n")[0])
    parser.add_argument("set", choices=list(SETS), help="pictures to train on; digits are a small trial")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of all that is made")
    parser.add_argument("--photos", type=Path, metavar="DIR", help="folder of the unpacked Debian package")
    parser.add_argument("--timm", type=Path, metavar="DIR", help="clone of huggingface/pytorch-image-models")
    parser.add_argument("--vision", type=Path, metavar="DIR", help="clone of pytorch/vision")
    parser.add_argument(
        "--seeds",
        type=_args.positive_int,
        default=5,
        metavar="N",
        help="trainings of each program (default: 5)",
    )
    parser.add_argument(
        "--jobs", type=_args.positive_int, default=2, metavar="N", help="trainings at a time (default: 2)"
    )
    _args.add_json(parser)
    options = parser.parse_args(arguments)
    return exit_code(lambda: _run(options), "benchmarks.learning")


def _run(options: argparse.Namespace) -> int:
    settings, out = SETS[options.set], options.out.absolute() / options.set
    clones = {"trainer": Path.cwd(), "timm": options.timm, "torchvision": options.vision}
    programs = {name: clone.absolute() for name, clone in clones.items() if clone}
    make_photo_set(options.set, options.photos, out / "photos", train=settings.train, val=settings.val)
    if not (out / "photos" / "dataset.json").exists():
        prepare = [sys.executable, "-m", "trainer", "prepare", "folder", str(out / "photos")]
        subprocess.run(prepare, check=True, stdout=subprocess.DEVNULL)

    def one(seed: int, program: str) -> Training:
        training = run_training(program, seed, settings, out, programs[program])
        final = f"top-1 {training.columns.val_top1[-1]:.3f} in {training.seconds:.0f} s"
        print(f"{program} with seed {seed}: {final}", file=sys.stderr)
        return training

    with ThreadPoolExecutor(options.jobs) as pool:
        # In rotation: what else the machine does meets all programs.
        trainings = list(pool.map(lambda pair: one(*pair), itertools.product(range(options.seeds), programs)))
    found = differences(trainings) if options.seeds > 1 else []
    if options.json:
        rows = [{**asdict(each), "columns": each.columns._asdict()} for each in trainings]
        print(json.dumps({"trainings": rows, "differences": [dataclasses.asdict(gap) for gap in found]}))
    else:
        show(trainings, found)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
