"""The learning-rate range test of a recipe, as a tracked run of its own."""

from __future__ import annotations

import csv
import dataclasses
import logging
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from trainer import metrics
from trainer.config import Execution
from trainer.distributed import World, choose_device, join_world
from trainer.errors import ConfigError
from trainer.model import find
from trainer.run._execution import execution_of
from trainer.run._lr_plot import plot_lr
from trainer.run._metadata import dataset_info, device_name, execution_tags, run_tags
from trainer.run._options import FindLrOptions
from trainer.run._plan import Plan, make_plan, require_single_process
from trainer.run._preflight import check_tracking
from trainer.run._session import exclusive_run_dir, record_exit_status
from trainer.run._worker import SYNC_SECONDS
from trainer.stop import StopRequest
from trainer.tracking import BackgroundSync, RunInfo, RunLog, read_run_ref, redact, tracking_uri
from trainer.training import LrPoint, Suggestion, lr_grid, range_test, suggest

CURVE, TABLE = "learning-rates.png", "learning-rates.csv"

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class LrSuggestion:
    """What a learning-rate range test suggests."""

    run: str  # its folder
    run_id: str | None  # MLflow's; None as long as MLflow has not answered
    tracking_uri: str
    steepest: float  # peak learning rate at the recipe's global batch, where the loss falls fastest
    min_div_10: float  # a tenth of the learning rate at which the loss is lowest
    base_lr: float  # `steepest` for a global batch of 256, as recipes have it
    steps: int  # that were taken …
    planned_steps: int  # … and that would have been without a divergence
    table: str  # path of the steps as CSV
    curve: str  # path of the plot
    device: str


def find_lr(options: FindLrOptions) -> LrSuggestion:
    """Train a fresh network some steps with a growing learning rate, as a tracked run of its own.

    Raises: ConfigError if the steps suggest nothing, with table and plot kept; DataError, DeviceError, TrackingError;
        Stopped.
    """
    lrs = lr_grid(options.min_lr, options.max_lr, options.steps)
    require_single_process("find-lr")
    choose_device(options.device)
    plan = make_plan(options)
    find(plan.recipe.model)
    check_tracking(options.runs, offline=options.offline)
    folder = _new_folder(plan.folder.with_name(f"find-lr-{plan.folder.name}"))
    return _work(dataclasses.replace(plan, folder=folder), lrs, options)


def _new_folder(first: Path) -> Path:
    """`first`, or one with a number after it: a range test cannot be resumed, so each one is a new run."""
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


def _work(plan: Plan, lrs: Sequence[float], options: FindLrOptions) -> LrSuggestion:
    recipe, dataset, folder = plan.recipe, plan.dataset, plan.folder
    with ExitStack() as stack:
        journal = stack.enter_context(exclusive_run_dir(folder))
        plan.write()
        with record_exit_status(journal), join_world(options.device) as world:
            execution = execution_of(plan, options, world)
            settings = {"min_lr": lrs[0], "max_lr": lrs[-1], "steps": len(lrs)}
            info = RunInfo(
                name=folder.name,
                experiment=recipe.experiment,
                params={**recipe.flat(), **{f"find_lr.{key}": value for key, value in settings.items()}},
                tags={"kind": "find-lr", **run_tags(plan, world), **execution_tags(execution)},
                dataset=dataset_info(dataset),
                description=f"Learning-rate range test: {lrs[0]:g} to {lrs[-1]:g} in {len(lrs)} steps.",
            )
            journal.start(info)
            sync = stack.enter_context(BackgroundSync(folder))
            points = _points(plan, lrs, world, journal, execution)
            suggestion = _judged(plan, points, device_name(world.device))
            found = {f"find_lr.{key}": str(lr) for key, lr in suggestion._asdict().items()}
            journal.start(dataclasses.replace(info, tags={**info.tags, **found}))
        journal.finish("finished")
        if not sync.wait(SYNC_SECONDS):
            logger.warning("MLflow does not have all of it yet; send the rest with: trainer sync %s", folder)
    ref = read_run_ref(folder)
    return LrSuggestion(
        run=str(folder),
        run_id=ref.run_id if ref else None,
        tracking_uri=redact(tracking_uri(options.runs)),
        steepest=suggestion.steepest,
        min_div_10=suggestion.min_div_10,
        base_lr=suggestion.steepest * 256 / recipe.global_batch,
        steps=len(points),
        planned_steps=len(lrs),
        table=str(folder / TABLE),
        curve=str(folder / CURVE),
        device=device_name(world.device),
    )


def _points(
    plan: Plan, lrs: Sequence[float], world: World, log: RunLog, execution: Execution
) -> list[LrPoint]:
    """The steps of the test, logged some at a time."""
    points: list[LrPoint] = []
    with StopRequest() as stop:
        for block in range_test(
            plan.recipe, plan.dataset, world, lrs, execution=execution, stop=lambda: stop.made
        ):
            for point in block:
                values = {"lr": point.lr, "loss": point.loss, "smoothed_loss": point.smoothed}
                log.log(point.step, {metrics.FIND_LR + name: value for name, value in values.items()})
            points += block
            if block:
                logger.info(
                    "step %d of %d: learning rate %.3g, smoothed loss %.3f",
                    block[-1].step,
                    len(lrs),
                    block[-1].lr,
                    block[-1].smoothed,
                )
    return points


def _judged(plan: Plan, points: Sequence[LrPoint], device: str) -> Suggestion:
    """What the steps suggest; table and plot are kept in any case.

    Raises: ConfigError if they suggest nothing.
    """
    suggestion: Suggestion | None = None
    try:
        suggestion = suggest(points)
    except ConfigError as error:
        raise ConfigError(f"{error}; the steps are in {plan.folder / TABLE}") from None
    finally:
        with (plan.folder / TABLE).open("w", newline="") as file:
            csv.writer(file).writerows([LrPoint._fields, *points])
        plot_lr(
            plan.folder / CURVE,
            points,
            suggestion,
            title=f"Learning rates for {plan.recipe.name} on {plan.dataset.name}, {device}",
        )
    return suggestion
