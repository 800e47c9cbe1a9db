"""`trainer extend`."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from trainer import ranks
from trainer.cli import _args, _train
from trainer.run import ExtendOptions
from trainer.stop import stop_at_once

if TYPE_CHECKING:
    from trainer.run import Extension

NAME, GROUP, ORDER = "extend", "train", 5
HELP = "go on from a run's end for more epochs, where the learning rate allows it, as a run of its own"
EXAMPLE = "trainer extend runs/rn50-step-1a2b3c4d5e --epochs 100"
COLUMNS = 60  # of the curve


def add_arguments(parser: ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "folder", type=Path, metavar="RUN", help="folder of a run that is finished, or was stopped"
    )
    parser.add_argument(
        "--epochs",
        type=_args.positive_int,
        required=True,
        metavar="N",
        help="epochs of both together: those that are done count",
    )
    parser.add_argument(
        "--cooldown",
        action="store_true",
        help="let the learning rate fall from where it is to zero, in a straight line",
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="folder of its data set (default: where the run had it)"
    )
    for add in (_args.add_runs, _args.add_device, _args.add_execution, _args.add_offline, _args.add_partial):
        add(parser)
    _args.add_json(parser)
    _train.add_start(parser)


def run(options: Namespace) -> int:
    """Show what the learning rate would do, then train; return the exit code."""
    with stop_at_once("what was done is kept, start the same command again to go on"):
        return _run(options)


def _run(options: Namespace) -> int:
    from trainer.cli._terminal import ConsoleLog, configure_logging
    from trainer.run import check_budget, extend_run, make_extension, priced

    given = priced(_args.options_of(ExtendOptions, options))
    extension = make_extension(given)
    configure_logging()
    if extension.rates and not (options.json or ranks.launched_by_trainer() or ranks.rank()):
        _show_extension(extension)
    if options.dry_run:
        extension.require_smooth()
        _train.show_plan(extension.plan, given, check_budget(extension.plan, given))
        return 0
    if result := extend_run(given, display=ConsoleLog):
        if options.json:
            print(json.dumps(result.as_dict()))
        else:
            _train.show(result, given)
    return 0


def _show_extension(extension: Extension) -> None:
    from trainer.cli._curves import Curve
    from trainer.cli._terminal import show_table

    curve = Curve()
    for rate in extension.rates:
        curve.add(rate)
    drawn, done = curve.drawn(COLUMNS), extension.step / extension.total
    at = round(done * len(drawn))
    epochs = extension.step / extension.steps_per_epoch
    show_table(
        f"{epochs:g} epochs are done, {extension.plan.recipe.epochs} are wanted",
        {
            "lr": f"{drawn[:at]}|{drawn[at:]}",
            "ended at": f"{extension.ended_at:.4g}",
            "goes on at": f"{extension.goes_on_at:.4g}",
            **({"also": extension.also} if extension.also else {}),
        },
    )
