"""Cost of the mirror: training steps beside uploads, against steps without, as S3 is well or not.

Step by step in turn, because a machine's speed drifts; for the steps without, the mirror's process is halted. Each
round has a new checkpoint of ResNet-50, 205 MB, which goes up during its steps: far more often than in a run.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import torch

from benchmarks._program import exit_code, make_parser
from benchmarks.loop import RESAMPLES
from trainer.checkpoint import write_checkpoint
from trainer.cli import _args
from trainer.config import Execution, Recipe, load_recipe
from trainer.dataloader import Batch
from trainer.distributed import World
from trainer.performance import Environment, environment, make_sample
from trainer.performance._trial import Trial, fixed_batch
from trainer.run import Plan, StartOptions
from trainer.run._mirrored import Mirrored
from trainer.training import make_model, make_optimizer

MANNERS: dict[str, dict[str, object]] = {
    "well": {},
    "500": {"status": 500},
    "503": {"status": 503},
    "slow": {"slow": 0.05},  # 64 kB every 50 ms: 1.3 MB/s
    "silent": {"silent": True},
}
BUCKET = "benchmark"


@dataclass(frozen=True)
class MirrorBench:
    """Result of `bench_mirror`."""

    beside_to_without: dict[
        str, float
    ]  # speed of a step beside a mirror divided by that of one without, median
    ratio_95: dict[str, tuple[float, float]]  # 95 % confidence intervals, bootstrap over the pairs
    seconds: dict[
        str, list[tuple[float, float]]
    ]  # of each pair of steps, without and beside; by the manner of S3
    checkpoint_mb: float
    steps: int  # pairs of them in each round
    environment: Environment


class _Server:
    """An S3 server in a process of its own."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks._s3_proxy"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        assert self._process.stdout is not None
        self.url = self._process.stdout.readline().strip()

    def behave(self, manner: Mapping[str, object]) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(manner) + "\n")
        self._process.stdin.flush()
        self._process.stdout.readline()

    def stop(self) -> None:
        self._process.kill()
        self._process.communicate()


@contextmanager
def _s3() -> Iterator[_Server]:
    """An S3 server, which the environment names, with a bucket."""
    import botocore.session

    server = _Server()
    login = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}
    try:
        with patch.dict(os.environ, {**login, "AWS_ENDPOINT_URL": server.url}):
            botocore.session.get_session().create_client("s3").create_bucket(Bucket=BUCKET)
            yield server
    finally:
        server.stop()


def bench_mirror(recipe: Recipe, *, steps: int, rounds: int) -> MirrorBench:
    """Measure what a mirror costs the steps of a training on one core of the CPU.

    Args:
        recipe: what to train.
        steps: pairs of them in each round.
        rounds: counted ones, for each manner of S3.
    """
    torch.set_num_threads(1)
    world, execution = World(0, 1, torch.device("cpu")), Execution()
    trial = Trial(recipe, world, execution)
    batches = itertools.repeat(fixed_batch(recipe, world, execution))
    trial.run(batches, steps=1)
    model = make_model(recipe, 1000, world)
    states = {"model": model.state_dict(), "optimizer": make_optimizer(model, recipe).state_dict()}
    step = 0
    seconds: dict[str, list[tuple[float, float]]] = {}
    with tempfile.TemporaryDirectory() as folder, _s3() as server:
        dataset = make_sample(Path(folder) / "data", images=recipe.global_batch)
        plan = Plan(recipe, dataset, Path(folder) / "runs" / "run")
        options = StartOptions(runs=plan.folder.parent, runs_remote=f"s3://{BUCKET}/runs", mirror_every=1.0)
        with Mirrored(options) as mirror:
            mirror.restore(plan)
            checkpoints = plan.folder / "checkpoints"
            checkpoints.mkdir(parents=True)
            plan.write()
            assert mirror._child is not None
            for manner, how in MANNERS.items():
                server.behave(how)
                seconds[manner] = []
                for _ in range(rounds + 1):
                    step += 1
                    os.kill(mirror._child.pid, signal.SIGSTOP)
                    states["progress"] = {"step": step}
                    path = write_checkpoint(checkpoints, step, {"states": states})
                    for old in sorted(checkpoints.iterdir())[:-2]:
                        old.unlink()
                    for _ in range(steps):
                        without = _seconds(trial, batches)
                        os.kill(mirror._child.pid, signal.SIGCONT)
                        seconds[manner].append((without, _seconds(trial, batches)))
                        os.kill(mirror._child.pid, signal.SIGSTOP)
                    os.kill(mirror._child.pid, signal.SIGCONT)
                del seconds[manner][:steps]
            os.kill(mirror._child.pid, signal.SIGKILL)  # nobody waits for a last upload
            megabytes = path.stat().st_size / 1e6
    return MirrorBench(
        beside_to_without={manner: _median(pairs) for manner, pairs in seconds.items()},
        ratio_95={manner: _confidence_interval(pairs) for manner, pairs in seconds.items()},
        seconds=seconds,
        checkpoint_mb=megabytes,
        steps=steps,
        environment=environment(world.device),
    )


def _seconds(trial: Trial, batches: Iterator[Batch]) -> float:
    begun = time.perf_counter()
    trial.run(batches, steps=1, warm_up=0)
    return time.perf_counter() - begun


def _median(pairs: Sequence[tuple[float, float]]) -> float:
    return statistics.median(without / beside for without, beside in pairs)


def _confidence_interval(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """95 % of the median, by resampling the pairs."""
    rng = random.Random(0)
    medians = sorted(_median(rng.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    tail = RESAMPLES // 40
    return medians[tail], medians[-tail]


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code."""
    parser = make_parser("mirror", "Training steps beside a mirror on S3, against steps without one.")
    _args.add_json(parser)
    for name, default, what in (("--steps", 8, "pairs of steps in each round"), ("--rounds", 4, "rounds")):
        parser.add_argument(
            name,
            type=_args.positive_int,
            default=default,
            metavar="N",
            help=f"number of {what} (default: {default})",
        )
    options = parser.parse_args(arguments)

    def work() -> int:
        settings = ["global_batch=8", "preprocess.train_size=64", "precision=fp32"]
        recipe = load_recipe("rn50-baseline", settings)
        result = bench_mirror(recipe, steps=options.steps, rounds=options.rounds)
        if options.json:
            print(json.dumps(dataclasses.asdict(result)))
            return 0
        megabytes = f"{result.checkpoint_mb:.0f} MB to upload"
        print(f"{options.rounds} rounds of {result.steps} pairs of steps, {megabytes} in each")
        for manner, ratio in result.beside_to_without.items():
            low, high = result.ratio_95[manner]
            print(f"{manner:<7} {ratio:.3f} (95 %: {low:.3f} to {high:.3f})")
        return 0

    return exit_code(work, "benchmarks.mirror")


if __name__ == "__main__":
    raise SystemExit(main())
