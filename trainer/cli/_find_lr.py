"""`trainer find-lr`: the learning-rate range test of a recipe, as a run of its own."""

from __future__ import annotations

import argparse
import csv
import dataclasses
import json
import os
from collections.abc import Sequence
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

from trainer.cli._lr_curve import draw_curve
from trainer.cli._plan import Plan, make_plan
from trainer.cli._run import (
    SHIPPING_SECONDS,
    check_place,
    dataset_facts,
    device_name,
    driven,
    ending_noted,
    folder_of_ours,
    tags_of,
)
from trainer.cli._terminal import console, show_table
from trainer.dataloader import Decoder
from trainer.distributed import World, choose_device, join_world
from trainer.errors import ConfigError
from trainer.files import write_json
from trainer.model import find
from trainer.performance import choose
from trainer.tracking import BackgroundSync, RunLog, read_run_ref, tracking_uri
from trainer.training import LrPoint, StopRequest, Suggestion, lr_grid, range_test, suggest

CURVE, TABLE = "learning-rates.png", "learning-rates.csv"


def run(options: argparse.Namespace) -> int:
    """Run the test, track it, print what it suggests."""
    rates = lr_grid(options.min_lr, options.max_lr, options.steps)
    plan = _plan(options)
    outcome = _work(plan, rates, options)
    if options.json:
        print(json.dumps(outcome))
        return 0
    paste = f"{outcome['base_lr']:.3g}"
    show_table(
        f"{plan.recipe.name} on {plan.dataset.name}, {outcome['device']}: {outcome['steps']} of {len(rates)} steps"
        + (", then the loss was lost" if outcome["steps"] < len(rates) else ""),
        {
            "steepest descent": f"{outcome['steepest']:.3g}, with {plan.recipe.global_batch:,} images a step",
            "minimum / 10": f"{outcome['min_div_10']:.3g}",
            "in the recipe": f"optimizer: {{base_lr: {paste}}}",
            "or to train": f"--set optimizer.base_lr={paste}",
            "curve": outcome["curve"],
            "table": outcome["table"],
        },
    )
    return 0


def _plan(options: argparse.Namespace) -> Plan:
    """What is to be tried, with everything that can be found wrong looked for, and then a new folder for it."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ConfigError(
            "trainer find-lr is one process and was started as several; start it without torchrun"
        )
    choose_device(options.device)
    plan = make_plan(options)
    find(plan.recipe.model)
    check_place(options.runs, offline=options.offline)
    folder = _new_folder(plan.folder.with_name(f"find-lr-{plan.folder.name}"))
    return dataclasses.replace(plan, folder=folder)


def _new_folder(first: Path) -> Path:
    """`first`, or one with a number after it: each test is a run of its own, for none can go on where it was."""
    for number in count(1):
        folder = first if number == 1 else first.with_name(f"{first.name}-{number}")
        try:
            folder.mkdir()
            break
        except FileExistsError:
            continue
        except OSError as error:
            raise ConfigError(
                f"the folder {folder} cannot be made: {error.strerror}; choose another --runs or --name"
            ) from None
    return folder


def _work(plan: Plan, rates: Sequence[float], options: argparse.Namespace) -> dict[str, Any]:
    """Test, tell and keep; what came out."""
    recipe, dataset, folder = plan.recipe, plan.dataset, plan.folder
    with ExitStack() as stack:
        journal = stack.enter_context(folder_of_ours(folder))
        write_json(folder / "recipe.json", recipe.as_dict())
        with ending_noted(journal), join_world(options.device) as world:
            choice = choose(recipe, dataset.train, world, folder, decoder=options.decoder, tell=console.print)
            plan = dataclasses.replace(plan, recipe=choice.of(recipe))
            asked = {"lowest": rates[0], "highest": rates[-1], "steps": len(rates)}
            journal.start(
                name=folder.name,
                experiment=recipe.register_as,
                params={**recipe.flat(), **{f"find_lr.{key}": value for key, value in asked.items()}},
                tags={"kind": "find-lr", **tags_of(plan, world), **driven(choice)},
                dataset=dataset_facts(dataset),
            )
            shipper = stack.enter_context(BackgroundSync(folder))
            tried = _tried(plan, rates, world, journal, choice.decoder)
            suggestion = _judged(plan, tried, device_name(world.device))
            journal.log(
                tried[-1].step, {f"find_lr/{key}": rate for key, rate in suggestion._asdict().items()}
            )
        journal.finish("finished")
        if not shipper.wait(SHIPPING_SECONDS):
            console.print(f"MLflow does not have all of it yet; bring it there with: trainer sync {folder}")
    place = read_run_ref(folder)
    return {
        "run": str(folder),
        "run_id": place and place.run_id,
        "tracking_uri": tracking_uri(options.runs),
        **suggestion._asdict(),
        "base_lr": suggestion.steepest * 256 / recipe.global_batch,
        "steps": len(tried),
        "table": str(folder / TABLE),
        "curve": str(folder / CURVE),
        "device": device_name(world.device),
    }


def _tried(plan: Plan, rates: Sequence[float], world: World, log: RunLog, decoder: Decoder) -> list[LrPoint]:
    """The steps of the test, noted and shown some at a time."""
    tried: list[LrPoint] = []
    with StopRequest() as stop:
        for block in range_test(
            plan.recipe, plan.dataset, world, rates, decoder=decoder, stop=lambda: stop.made
        ):
            for one in block:
                names = "find_lr/learning_rate", "find_lr/loss", "find_lr/smoothed_loss"
                log.log(one.step, dict(zip(names, one[1:], strict=True)))
            tried += block
            if block:
                console.print(
                    f"step {block[-1].step} of {len(rates)}: learning rate {block[-1].rate:.3g}, "
                    f"smoothed loss {block[-1].smoothed:.3f}"
                )
    return tried


def _judged(plan: Plan, tried: Sequence[LrPoint], device: str) -> Suggestion:
    """What the steps suggest; table and curve are kept in any case.

    Raises: ConfigError if they suggest nothing.
    """
    suggestion: Suggestion | None = None
    try:
        suggestion = suggest(tried)
    except ConfigError as error:
        raise ConfigError(f"{error}; the steps are in {plan.folder / TABLE}") from None
    finally:
        with (plan.folder / TABLE).open("w", newline="") as file:
            csv.writer(file).writerows([LrPoint._fields, *tried])
        draw_curve(
            plan.folder / CURVE, tried, suggestion,
            title=f"Learning rates for {plan.recipe.name} on {plan.dataset.name}, {device}",
        )  # fmt: skip
    return suggestion
