"""`trainer recipes`."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace

from trainer.cli import _args
from trainer.config import Recipe, load_recipe, shipped_recipes

NAME, GROUP, ORDER = "recipes", "train", 1
HELP = "list the shipped recipes with the accuracy they are for, hours and dollars"
EXAMPLE = "trainer recipes"

INSTANCES = ("g4dn.xlarge", "g5.xlarge", "g5.12xlarge")  # 1 T4, 1 A10G, 4 A10G


def add_arguments(parser: ArgumentParser) -> None:
    """The command's arguments."""
    _args.add_json(parser)


def run(options: Namespace) -> int:
    """List the shipped recipes, those for ImageNet first, from the lowest bar to the highest."""
    recipes = sorted(
        map(load_recipe, shipped_recipes()), key=lambda one: (one.bar is None, one.bar, one.epochs)
    )
    rows = [
        {
            "name": one.name,
            "bar": one.bar,
            "epochs": one.epochs,
            "global_batch": one.global_batch,
            "description": one.description,
            "estimates": _estimates(one),
        }
        for one in recipes
    ]
    if options.json:
        print(json.dumps(rows))
        return 0
    print(f"{'recipe':<16} {'top-1':>5} {'epochs':>6}  " + "  ".join(f"{name:>13}" for name in INSTANCES))
    for one, row in zip(recipes, rows, strict=True):
        costs = [f"{hours:5.1f} h {f'${usd:.0f}':>4}" for hours, usd in _estimates(one).values()] or [
            "-"
        ] * len(INSTANCES)
        bar = f"{one.bar:.0%}" if one.bar else "-"
        print(f"{one.name:<16} {bar:>5} {one.epochs:>6}  " + "  ".join(f"{cost:>13}" for cost in costs))
        print(f"{'':<16} {row['description']}")
    print(
        "\nHours and dollars are predictions for ImageNet, on demand; `trainer estimate RECIPE` has more.\n"
        "Nobody has trained the ImageNet recipes with this program yet; docs/recipes.md names their sources."
    )
    return 0


def _estimates(recipe: Recipe) -> dict[str, tuple[float, float]]:
    """Hours and dollars by instance; nothing for recipes that are not for ImageNet, which have no bar."""
    from trainer.instances import find_instance
    from trainer.performance import estimate

    if recipe.bar is None:
        return {}
    made = {name: estimate(recipe, find_instance(name)) for name in INSTANCES}
    return {name: (one.hours, one.usd) for name, one in made.items()}
