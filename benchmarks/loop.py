"""Cost of the training loop: `train` with journal and checkpoints, against its bare steps.

Both run in one process and alternate every few seconds, because a machine's throughput drifts by more within minutes
than the loop costs.
"""

from __future__ import annotations

import dataclasses
import json
import random
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks._program import exit_code, make_parser
from trainer import metrics
from trainer.checkpoint import INTERVAL
from trainer.cli import _args
from trainer.config import Execution, Recipe, load_recipe
from trainer.dataloader import TrainLoader
from trainer.dataset import Dataset, open_dataset
from trainer.distributed import World, join_world
from trainer.performance import (
    Environment,
    Trial,
    TrialResult,
    defaults,
    environment,
    make_sample,
    repeat_images,
)
from trainer.tracking import DatasetInfo, Journal, RunInfo
from trainer.training import train

PHOTOS = 512  # generated where no data set is given
RESAMPLES = 2000  # of the bootstrap


@dataclass(frozen=True)
class LoopBench:
    """Result of `bench_loop`: `loop` is `train`, `bare` its batches and steps alone."""

    steps_per_second: dict[str, float]  # mean over the rounds
    loop_to_bare: float  # throughput of `loop` divided by that of `bare`
    loop_to_bare_95: tuple[float, float]  # 95 % confidence interval, bootstrap over the rounds
    seconds: dict[str, list[float]]  # of each round
    steps: int  # of each round
    rounds: int
    global_batch: int
    train_size: int  # pixels
    environment: Environment


def bench_loop(
    recipe: Recipe, dataset: Dataset, world: World, execution: Execution, *, steps: int, rounds: int
) -> LoopBench:
    """Measure what journal, metrics and checkpoints cost.

    At each log interval `train` waits while the bare loop takes as many steps. The first round is not counted.

    Args:
        recipe: what to train.
        dataset: images, repeated as often as needed.
        world: one process and its device.
        execution: how this machine runs the recipe.
        steps: steps of each loop in each round.
        rounds: number of counted rounds.
    """
    total = steps * (rounds + 1)
    # One epoch, so that no evaluation comes in between.
    dataset = dataclasses.replace(dataset, train=repeat_images(dataset.train, total * recipe.global_batch))
    recipe = dataclasses.replace(
        recipe, epochs=1, log_every=steps, schedule=dataclasses.replace(recipe.schedule, warmup_epochs=0)
    )
    bare = Trial(recipe, world, execution, classes=len(dataset.classes))
    batches = TrainLoader(dataset.train, recipe, world, execution).batches(first_step=0, last_step=total)
    with tempfile.TemporaryDirectory() as folder:
        journal = _AlternatingJournal(Path(folder), lambda: bare.run(batches, steps=steps, warm_up=0))
        info = DatasetInfo(dataset.name, dataset.digest, str(dataset.root), {})
        journal.start(RunInfo(name="bench", experiment="bench", params={}, tags={}, dataset=info))
        # Half of the time goes to the bare loop: twice the interval is one checkpoint for as many steps as in a run.
        train(
            recipe,
            dataset,
            Path(folder),
            world,
            journal,
            execution=execution,
            checkpoint_interval=2 * INTERVAL,
        )
    seconds = {name: measured[1:] for name, measured in journal.seconds.items()}
    pairs = list(zip(seconds["bare"], seconds["loop"], strict=True))
    return LoopBench(
        steps_per_second={name: steps * rounds / sum(measured) for name, measured in seconds.items()},
        loop_to_bare=_ratio_of_sums(pairs),
        loop_to_bare_95=_confidence_interval(pairs),
        seconds=seconds,
        steps=steps,
        rounds=rounds,
        global_batch=recipe.global_batch,
        train_size=recipe.preprocess.train_size,
        environment=environment(world.device),
    )


def _ratio_of_sums(pairs: Sequence[tuple[float, float]]) -> float:
    return sum(first for first, _ in pairs) / sum(second for _, second in pairs)


def _confidence_interval(pairs: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """95 % of the ratio of sums, by resampling the rounds."""
    rng = random.Random(0)
    ratios = sorted(_ratio_of_sums(rng.choices(pairs, k=len(pairs))) for _ in range(RESAMPLES))
    tail = RESAMPLES // 40
    return ratios[tail], ratios[-tail]


class _AlternatingJournal(Journal):
    """A journal that runs the bare loop at each log interval, and takes the time of both.

    What the journal itself costs counts as the loop's.
    """

    def __init__(self, folder: Path, run_bare: Callable[[], TrialResult]) -> None:
        super().__init__(folder)
        self._run_bare = run_bare
        self.seconds: dict[str, list[float]] = {"loop": [], "bare": []}
        self._begun = time.perf_counter()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        super().log(step, values)
        if metrics.TRAIN_LOSS in values:
            now = time.perf_counter()
            self.seconds["loop"].append(now - self._begun)
            self._run_bare()
            self._begun = time.perf_counter()
            self.seconds["bare"].append(self._begun - now)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print; the exit code."""
    parser = make_parser("loop", "The training loop with journal and checkpoints, against its bare steps.")
    _args.add_recipe(parser)
    _args.add_device(parser)
    _args.add_execution(parser)
    _args.add_json(parser)
    parser.add_argument(
        "--data",
        type=Path,
        metavar="DIR",
        help="folder of a prepared data set (default: generated photos of ImageNet's sizes)",
    )
    parser.add_argument(
        "--steps",
        type=_args.positive_int,
        default=10,
        metavar="N",
        help="number of steps of each loop in each round (default: 10)",
    )
    parser.add_argument(
        "--rounds", type=_args.positive_int, default=60, metavar="N", help="number of rounds (default: 60)"
    )
    options = parser.parse_args(arguments)

    def work() -> int:
        recipe = load_recipe(options.recipe, options.set).at_full_res()
        execution = defaults(
            batch_per_gpu=options.batch_per_gpu, compile=options.compile, decoder=options.decoder
        ).execution
        with tempfile.TemporaryDirectory() as folder, join_world(options.device) as world:
            dataset = open_dataset(options.data) if options.data else make_sample(Path(folder), images=PHOTOS)
            result = bench_loop(recipe, dataset, world, execution, steps=options.steps, rounds=options.rounds)
        if options.json:
            print(json.dumps(dataclasses.asdict(result)))
            return 0
        low, high = result.loop_to_bare_95
        print(f"{result.rounds:,} rounds of {result.steps:,} steps of {result.global_batch} images each")
        print(f"train      {result.steps_per_second['loop']:.2f} steps/s")
        print(f"bare loop  {result.steps_per_second['bare']:.2f} steps/s")
        print(f"ratio      {result.loop_to_bare:.3f} (95 %: {low:.3f} to {high:.3f})")
        return 0

    return exit_code(work, "benchmarks.loop")


if __name__ == "__main__":
    raise SystemExit(main())
