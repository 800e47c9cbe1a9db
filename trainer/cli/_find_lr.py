"""`trainer find-lr`."""

from __future__ import annotations

import dataclasses
import json
from argparse import ArgumentParser, Namespace

from trainer.cli import _args
from trainer.run import FindLrOptions, make_plan, require_single_process

NAME, GROUP, ORDER = "find-lr", "train", 3
HELP = "find the peak learning rate of a recipe: train some steps with a growing one, in one process"
EXAMPLE = "trainer find-lr flowers.yaml --data /data/flowers --set global_batch=256"


def add_arguments(parser: ArgumentParser) -> None:
    """The command's arguments."""
    _args.add_run(parser)
    parser.add_argument("--name", help="name of the run, after find-lr- (default: the recipe's)")
    parser.add_argument(
        "--min-lr",
        type=_args.positive_float,
        default=FindLrOptions.min_lr,
        metavar="LR",
        help="learning rate of the first step, at the recipe's global batch (default: 1e-5)",
    )
    parser.add_argument(
        "--max-lr",
        type=_args.positive_float,
        default=FindLrOptions.max_lr,
        metavar="LR",
        help="learning rate of the last step (default: 10)",
    )
    parser.add_argument(
        "--steps",
        type=_args.positive_int,
        default=FindLrOptions.steps,
        metavar="N",
        help="number of steps at most; the test ends when the loss diverges (default: 200)",
    )


def run(options: Namespace) -> int:
    """Run the range test, track it, print its suggestion."""
    given = _args.options_of(FindLrOptions, options)
    # What is wrong is said before torch is imported.
    require_single_process(NAME)
    plan = make_plan(given)
    from trainer.cli._terminal import configure_logging, show_table
    from trainer.run import find_lr

    configure_logging()
    found = find_lr(given)
    if options.json:
        print(json.dumps(dataclasses.asdict(found)))
        return 0
    paste = f"{found.base_lr:.3g}"
    show_table(
        f"{plan.recipe.name} on {plan.dataset.name}, {found.device}: {found.steps} of {found.planned_steps} steps"
        + (", then the loss diverged" if found.steps < found.planned_steps else ""),
        {
            "steepest descent": f"{found.steepest:.3g}, with {plan.recipe.global_batch:,} images a step",
            "minimum / 10": f"{found.min_div_10:.3g}",
            "in the recipe": f"optimizer: {{base_lr: {paste}}}",
            "or to train": f"--set optimizer.base_lr={paste}",
            "curve": found.curve,
            "table": found.table,
        },
    )
    return 0
