"""`trainer promote`."""

from __future__ import annotations

import dataclasses
import json
from argparse import ArgumentParser, Namespace

from trainer.cli import _args

NAME, GROUP, ORDER = "promote", "ship", 1
HELP = "make a version the champion, which devices run, if it is better than the one that is"
EXAMPLE = "trainer promote resnet50-imagenet"


def add_arguments(parser: ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "model",
        metavar="MODEL",
        nargs="?",
        help="a recipe or the name of a registered model (its candidate), models:/NAME@ALIAS, models:/NAME/VERSION, "
        "runs:/RUN_ID, or a run folder (default: the candidate, if there is one registered model)",
    )
    _args.add_runs(parser)
    _args.add_json(parser)


def run(options: Namespace) -> int:
    """Promote it and say what it was before."""
    from trainer.cli._terminal import configure_logging
    from trainer.run import promote_model

    configure_logging()
    done = promote_model(options.model, runs=options.runs)
    if options.json:
        print(json.dumps(dataclasses.asdict(done)))
    elif not done.moved:
        print(f"{done.model} is the champion of {done.name} already")
    else:
        before = (
            f"; `trainer rollback {done.name}` brings version {done.previous} back" if done.previous else ""
        )
        print(f"{done.model} is the champion of {done.name} now: {done.why}{before}")
    return 0
