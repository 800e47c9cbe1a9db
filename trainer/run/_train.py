"""Training as one call: planned, started in as many processes as there are GPUs, tracked and registered."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from trainer import ranks
from trainer.run._limits import check_budget, priced, within_budget
from trainer.run._mirrored import Mirrored
from trainer.run._options import ExtendOptions, StartOptions, TrainOptions
from trainer.run._plan import Plan, proof_of
from trainer.run._result import RESULT, RunResult, read_result

if TYPE_CHECKING:
    from trainer.run._worker import Display

logger = logging.getLogger(__name__)


def train_run(options: TrainOptions, *, display: Display | None = None) -> RunResult | None:
    """Train a recipe, register the model, and return what came out; the same options again go on where it was.

    Progress and warnings go to the logger `trainer`, metrics to the run's journal and from there to MLflow.

    Args:
        options: what to train, on which images, and how.
        display: shows the run's log while it is written; it gets the log, the run's estimated end, and what
            earlier starts measured.

    Returns: the result; None in processes that leave the last word to another: all but the first, and those
        that `trainer` itself has started as one of several.
    Raises: ConfigError, DataError, DeviceError, TrackingError, CheckpointError for what the user can mend;
        TrainingDiverged; Stopped when the run was stopped, with everything saved; ProcessesFailed.
    """
    ranks.require_nproc(options.nproc_per_node)
    with Mirrored(options) as mirror:
        budgeted = within_budget(options, restore=mirror.restore)
        command = ["train", *budgeted.options.arguments()]
        return run_plan(
            budgeted.plan, budgeted.options, command, display, ready=lambda: budgeted.begin(options)
        )


def extend_run(options: ExtendOptions, *, display: Display | None = None) -> RunResult | None:
    """Go on from a finished or stopped run for more epochs, as a run of its own; the same options again go on with it.

    Args:
        options: which run, to how many epochs, and how.
        display: see `train_run`.

    Returns: as `train_run`.
    Raises: as `train_run`; ConfigError if the learning rate would jump, or the budget is too small.
    """
    from trainer.run._extension import make_extension

    ranks.require_nproc(options.nproc_per_node)
    options = priced(options)
    extension = make_extension(options)
    extension.require_smooth()
    command = ["extend", *options.arguments()]
    with Mirrored(options) as mirror:
        plan = extension.plan
        mirror.restore(plan)
        told = check_budget(plan, options)
        return run_plan(
            plan, options, command, display, ready=lambda: logger.info("%s", told) if told else None
        )


def run_plan(
    plan: Plan,
    options: StartOptions,
    command: Sequence[str],
    display: Display | None,
    *,
    ready: Callable[[], None] = lambda: None,
) -> RunResult | None:
    """Train what is planned, in as many processes as there are GPUs; see `train_run`.

    Args:
        plan: the run.
        options: how it is started.
        command: arguments of `trainer` that mean both.
        display: see `train_run`.
        ready: called once when all checks have passed, before the first step.
    """
    if not ranks.under_torchrun() and (result := read_result(plan.folder)):
        return result
    with proof_of(plan, options, dry=False) as proof:
        # Now and not before: these import torch, which takes seconds.
        from trainer.run._preflight import preflight, wait_for_spot_end
        from trainer.run._worker import work

        processes = preflight(plan, options, proof).processes
    if not ranks.launched_by_trainer() and ranks.rank() == 0:
        ready()
        if plan.news:
            logger.info("%s", plan.news)
    if not ranks.under_torchrun():
        wait_for_spot_end()
        if processes > 1:
            from trainer.run._launch import launch_until_done

            launch_until_done(
                command,
                processes,
                plan.folder,
                result=plan.folder / RESULT,
                max_restarts=options.max_restarts,
                timeout=options.timeout,
            )
            result = read_result(plan.folder)
            assert result is not None, "`launch` demands one"
            return replace(result, again=False)
    result = work(plan, options, display)
    return None if ranks.launched_by_trainer() else result
