"""`trainer summary`."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace

from trainer.cli import _args
from trainer.config import load_recipe

NAME, GROUP, ORDER = "summary", "train", 6
HELP = "show layers, parameters and multiply-adds of a recipe's network"
EXAMPLE = "trainer summary rn50-baseline"


def add_arguments(parser: ArgumentParser) -> None:
    """The command's arguments."""
    _args.add_recipe(parser)
    _args.add_json(parser)
    parser.add_argument(
        "--classes",
        type=_args.positive_int,
        metavar="N",
        help="number of classes of the data set (default: the recipe's, else 1,000)",
    )


def run(options: Namespace) -> int:
    """Print the layers, parameters and multiply-adds of a recipe's network."""
    recipe = load_recipe(options.recipe, options.set)
    from trainer.model import summary_of

    made = summary_of(recipe.model, options.classes or recipe.classes or 1000, recipe.preprocess.train_size)
    if options.json:
        print(json.dumps({"model": recipe.model, **made.as_dict()}))
    else:
        print(made.table(), end="")
    return 0
