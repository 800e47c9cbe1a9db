"""What a training run is: recipes as frozen, validated dataclasses.

A recipe is a YAML file that says *what* is trained; paths, addresses and devices come from the command line.
"""

from trainer.config._load import load_recipe, reason_of, shipped_recipes, stored_recipe
from trainer.config._phase import Phase, PhasePreprocess
from trainer.config._recipe import WORDS, Recipe, differing_settings
from trainer.config._settings import (
    CompileMode,
    Decoder,
    DeviceChoice,
    Execution,
    Optimizer,
    Preprocess,
    Schedule,
)

__all__ = [
    "WORDS",
    "CompileMode",
    "Decoder",
    "DeviceChoice",
    "Execution",
    "Optimizer",
    "Phase",
    "PhasePreprocess",
    "Preprocess",
    "Recipe",
    "Schedule",
    "differing_settings",
    "load_recipe",
    "reason_of",
    "shipped_recipes",
    "stored_recipe",
]
