"""`trainer rollback`."""

from __future__ import annotations

import dataclasses
import json
from argparse import ArgumentParser, Namespace

from trainer.cli import _args

NAME, GROUP, ORDER = "rollback", "ship", 2
HELP = "make the champion what it was before the last promotion"
EXAMPLE = 'trainer rollback resnet50-imagenet --reason "too slow on the Nano"'


def add_arguments(parser: ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("name", metavar="NAME", help="a registered model, or the recipe that trains it")
    parser.add_argument("--reason", default="", metavar="TEXT", help="why, which is kept with the move")
    _args.add_runs(parser)
    _args.add_json(parser)


def run(options: Namespace) -> int:
    """Swap champion and previous and say which is which."""
    from trainer.cli._terminal import configure_logging
    from trainer.run import roll_back

    configure_logging()
    done = roll_back(options.name, runs=options.runs, reason=options.reason)
    if options.json:
        print(json.dumps(dataclasses.asdict(done)))
    else:
        before = f"; version {done.previous} is previous" if done.previous else ""
        print(f"{done.model} is the champion of {done.name} again{before}")
    return 0
