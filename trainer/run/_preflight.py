"""Checks before a run starts: the device, MLflow, the network, and the machine itself."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from trainer import ranks
from trainer.distributed import choose_device, choose_nproc
from trainer.errors import ConfigError, Stopped, TrackingDown, TrackingError
from trainer.model import Summary, find, summary_of
from trainer.performance import defaults as autotune_defaults
from trainer.run._beginning import check_beginning
from trainer.run._options import StartOptions
from trainer.run._plan import Plan
from trainer.run._rehearsal import rehearse
from trainer.stop import StopRequest
from trainer.tracking import (
    ProofProcess,
    check_address,
    check_reachable,
    read_run_ref,
    redact,
    tracking_uri,
)
from trainer.training import SpotWatch, metadata_service

NOTICE_SECONDS = 600  # a spot notice comes two minutes ahead

logger = logging.getLogger(__name__)


class Preflight(NamedTuple):
    """What was found before a run starts."""

    processes: int  # on all machines together
    tracking: str  # where, and what was made there, as words; empty in all processes but the first


def preflight(plan: Plan, options: StartOptions, proof: ProofProcess) -> Preflight:
    """Check that the run can be trained on this machine to its end, and that MLflow will take it.

    Args:
        plan: of the run.
        options: how it is started.
        proof: what checks MLflow.

    Raises: ConfigError, DataError, DeviceError, TrackingError.
    """
    recipe, device = plan.recipe, choose_device(options.device)
    processes = ranks.world_size() if ranks.under_torchrun() else choose_nproc(device, options.nproc_per_node)
    recipe.accumulation_steps(processes, options.batch_per_gpu)
    if recipe.sync_batch_norm and processes > 1 and device == "cpu":
        raise ConfigError("sync_batch_norm needs GPUs; leave it out here with --set sync_batch_norm=false")
    if ranks.rank() != 0 or ranks.launched_by_trainer():
        find(recipe.model)
        return Preflight(processes, "")
    fits = options.batch_per_gpu or (autotune_defaults().execution.batch_per_gpu if device == "cpu" else None)
    rehearse(plan, recipe.micro_batch(processes, fits))
    made = make_runs_folder(options.runs)
    try:
        check_beginning(plan, options.runs)
        # A run that was in MLflow before has the right address. A new one may have a wrong one.
        if options.offline or read_run_ref(plan.folder):
            check_tracking(options.runs, offline=True)
            return Preflight(processes, redact(tracking_uri(options.runs)))
        try:
            return Preflight(processes, proof.run())
        except TrackingDown as error:
            raise TrackingError(f"{error}; --offline starts without it") from None
    finally:
        if made and proof.question.dry:
            with suppress(OSError):  # it holds something by now
                options.runs.rmdir()


def make_runs_folder(runs: Path) -> bool:
    """Make the folder of all runs; whether there was none. Raises: ConfigError."""
    tracking_uri(runs)  # which may be impossible
    try:
        made = not runs.exists()
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--runs {runs} cannot be made: {error.strerror}; choose another") from None
    return made


def check_tracking(runs: Path, *, offline: bool) -> None:
    """Check that runs can be kept in the folder `runs` and that MLflow answers; with `offline` only warn.

    Raises: ConfigError, TrackingError.
    """
    make_runs_folder(runs)
    uri = tracking_uri(runs)
    check_address(uri)
    try:
        check_reachable(uri)
    except TrackingError as error:
        if not offline:
            raise TrackingError(f"{error}; --offline starts without it") from None
        if not ranks.launched_by_trainer():
            logger.warning("%s; training starts without it and syncs when MLflow answers", error)


def network_summary(plan: Plan) -> Summary | None:
    """Layers and cost of the network; None if they cannot be counted, which hinders nobody from training it."""
    recipe = plan.recipe
    try:
        return summary_of(recipe.model, len(plan.dataset.classes), recipe.preprocess.train_size)
    except ConfigError:
        return None


def wait_for_spot_end() -> None:
    """Start nothing on a spot instance that has its notice: Docker starts a stopped run again at once.

    Raises: Stopped.
    """
    with StopRequest() as stop, suppress(OSError):
        notice = SpotWatch(metadata_service(), notice=stop.ask).pending()
        if notice:
            logger.warning("nothing is started, %s; the same command goes on afterwards", notice)
            end = time.monotonic() + NOTICE_SECONDS
            while not stop.made and time.monotonic() < end:
                time.sleep(0.2)
            raise Stopped(f"nothing was started, {notice}; start the same command again to go on")
