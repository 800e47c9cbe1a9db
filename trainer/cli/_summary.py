"""`trainer summary`: what a network is made of."""

from __future__ import annotations

import argparse
import json

from trainer.config import load_recipe
from trainer.model import summary_of


def run(options: argparse.Namespace) -> int:
    """Print the layers, parameters and multiply-adds of a recipe's network."""
    recipe = load_recipe(options.recipe, options.set)
    made = summary_of(recipe.model, options.classes, recipe.images.train_size)
    if options.json:
        print(json.dumps({"model": recipe.model, **made.as_dict()}))
    else:
        print(made.table(), end="")
    return 0
