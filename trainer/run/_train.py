"""Training as one call: planned, started in as many processes as there are GPUs, tracked and registered."""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING

from trainer import ranks
from trainer.run._options import TrainOptions
from trainer.run._plan import make_plan, proof_of
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
    plan = make_plan(options)
    if not ranks.under_torchrun() and (result := read_result(plan.folder)):
        return result
    with proof_of(plan, options, dry=False) as proof:
        # Now and not before: these import torch, which takes seconds.
        from trainer.run._launch import launch_until_done
        from trainer.run._preflight import preflight, wait_for_spot_end
        from trainer.run._worker import work

        processes = preflight(plan, options, proof).processes
    if plan.news and not ranks.launched_by_trainer() and ranks.rank() == 0:
        logger.info("%s", plan.news)
    if not ranks.under_torchrun():
        wait_for_spot_end()
        if processes > 1:
            launch_until_done(
                ["train", *options.arguments()],
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
