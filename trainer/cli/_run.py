"""A planned run: started in as many processes as there are GPUs, trained, tracked and registered."""

from __future__ import annotations

import argparse
import dataclasses
import errno
import os
import platform
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer import __version__, metrics
from trainer.checkpoint import list_checkpoints
from trainer.cli._outcome import keep, outcome_of, show
from trainer.cli._plan import Plan
from trainer.cli._processes import KILLED, run_in_processes
from trainer.cli._spending import Spending
from trainer.cli._terminal import Shown, console, show_table
from trainer.config import Recipe
from trainer.dataloader import Decoder, ValLoader, preprocessing
from trainer.dataset import Dataset
from trainer.distributed import World, choose_device, choose_nproc, join_world
from trainer.errors import CheckpointError, ConfigError, Stopped, TrackingDown, TrackingError, TrainerError
from trainer.files import file_lock, write_json, write_text
from trainer.model import Summary, find, summary_of
from trainer.performance import Choice, choose
from trainer.tracking import (
    BackgroundSync,
    DatasetInfo,
    Journal,
    ModelInfo,
    NullLog,
    Registered,
    RunLog,
    Sample,
    check_reachable,
    read_journal,
    read_run_ref,
    register,
    save_model,
    tracking_uri,
)
from trainer.training import (
    VAL_BATCH,
    Accuracy,
    SpotWatch,
    StopRequest,
    choose_precision,
    evaluate,
    full_precision,
    metadata_service,
    train,
)

MODEL_TABLE = "model.txt"
NOT_SUMMARIZED = "its layers cannot be counted here, see `trainer summary`"
SAMPLES = 8  # validation images that travel with a registered model
SHIPPING_SECONDS = 120  # how long the end of a run waits for MLflow
NOTICE_SECONDS = 600  # a spot notice comes two minutes ahead
LOCK_SECONDS = 10
OF_A_DISK = {
    errno.EACCES, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOENT, errno.ENOSPC, errno.ENOTDIR, errno.EPERM,
    errno.EROFS, errno.ESTALE,
}  # fmt: skip


def start(plan: Plan, options: argparse.Namespace) -> int:
    """Make the run, or start one process a GPU that do; return the exit code."""
    processes = _processes(plan.recipe, options)
    if int(os.environ.get("RANK", "0")) == 0:
        # A run that was in MLflow before has the right address. A new one may have a wrong one.
        check_place(options.runs, offline=options.offline or bool(read_run_ref(plan.folder)))
    if options.dry_run:
        _show_plan(plan, processes)
        return 0
    if "RANK" not in os.environ:
        _wait_while_ec2_takes_the_instance()
        if processes > 1:
            return _launch(plan, processes, options)
    again = bool(outcome_of(plan.folder))
    outcome = _work(plan, options)
    if outcome:
        if not again:
            keep(plan.folder, outcome)
        show(outcome, options, again=again)
    return 0


def _processes(recipe: Recipe, options: argparse.Namespace) -> int:
    """How many there are or shall be, if the recipe can be trained by so many on this machine.

    Raises: ConfigError, DeviceError.
    """
    device = choose_device(options.device)
    processes = int(os.environ.get("WORLD_SIZE", "0")) or choose_nproc(device, options.nproc_per_node)
    recipe.accumulation(processes)
    if recipe.sync_batch_norm and processes > 1 and device == "cpu":
        raise ConfigError("sync_batch_norm needs GPUs; leave it out here with --set sync_batch_norm=false")
    find(recipe.model)
    return processes


def check_place(runs: Path, *, offline: bool) -> None:
    """See that a run can be kept below `runs` and told to MLflow, or with `offline` say that it cannot.

    Raises: ConfigError, TrackingError.
    """
    try:
        runs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--runs {runs} cannot be made: {error.strerror}; choose another") from None
    try:
        check_reachable(tracking_uri(runs))
    except TrackingError as error:
        if not offline:
            raise TrackingError(f"{error}; --offline starts without it") from None
        if "RANK" not in os.environ or int(os.environ["WORLD_SIZE"]) == 1:
            console.print(f"trainer: {error}\ntraining does not wait for it: what it tells follows later")


def _wait_while_ec2_takes_the_instance() -> None:
    """Start nothing on a spot instance that has its notice: Docker starts a stopped run again at once.

    Raises: Stopped.
    """
    with StopRequest() as stop, suppress(OSError):
        watch = SpotWatch(metadata_service(), notice=stop.ask, tell=console.print)
        said = watch.pending()
        if said:
            console.print(f"trainer: nothing is started, {said}; the same command goes on afterwards")
            end = time.monotonic() + NOTICE_SECONDS
            while not stop.made and time.monotonic() < end:
                time.sleep(0.2)
            raise Stopped(f"nothing was started, {said}; start the same command again to go on")


def _launch(plan: Plan, processes: int, options: argparse.Namespace) -> int:
    """Run this very command in several processes, again after a crash; return the exit code.

    torchrun's --max-restarts would start on the same wrong input again.
    """
    left = restarts = options.max_restarts
    while True:
        before = list_checkpoints(plan.folder / "checkpoints")[:1]
        code = run_in_processes(processes, options.timeout)
        if code == KILLED and read_journal(plan.folder, empty=True).status == "interrupted":
            return Stopped.exit_code
        if code in (0, TrainerError.exit_code, Stopped.exit_code, KILLED):
            return code
        if list_checkpoints(plan.folder / "checkpoints")[:1] != before:
            left = restarts
        if left == 0:
            console.print("trainer: the processes ended too often without progress; giving up")
            return code
        left -= 1
        console.print(
            f"trainer: a process ended ({_told(code)}); all are started again from the last checkpoint"
        )


def _told(code: int) -> str:
    if code == -signal.SIGKILL:
        return "signal SIGKILL, which Linux sends where memory is short; in Compose TRAINER_MEMORY in .env gives more"
    return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"


def _work(plan: Plan, options: argparse.Namespace) -> dict[str, Any] | None:
    """This process's part of the run; what came out of it, on the first process."""
    recipe, dataset = plan.recipe, plan.dataset
    steps_per_epoch = recipe.steps_per_epoch(len(dataset.train))
    total = recipe.epochs * steps_per_epoch
    first = int(os.environ.get("RANK", "0")) == 0
    with ExitStack() as stack:
        log: RunLog = NullLog()
        made_of: dict[str, str] = {}
        if first:
            journal = stack.enter_context(folder_of_ours(plan.folder))
            spending = Spending(
                before=read_journal(plan.folder, empty=True).seconds,
                price=options.price,
                steps=total,
                images_per_step=recipe.global_batch,
                epochs=recipe.epochs,
            )
            log = stack.enter_context(
                Shown(journal, total=total, steps_per_epoch=steps_per_epoch, spending=spending)
            )
            write_json(plan.folder / "recipe.json", recipe.as_dict())
            network = _summary(plan)
            console.print(f"{recipe.model}: {network.line() if network else NOT_SUMMARIZED}")
            made_of = {"parameters": str(network.parameters)} if network else {}
            write_text(plan.folder / MODEL_TABLE, network.table() if network else f"{NOT_SUMMARIZED}\n")
        with ending_noted(log), join_world(options.device, timeout=options.timeout) as world:
            if done := _finished_before(plan.folder, world):
                return done if first else None
            with world.detect_lost_ranks():
                choice = choose(
                    recipe, dataset.train, world, plan.folder, decoder=options.decoder, tell=console.print
                )
            plan = dataclasses.replace(plan, recipe=choice.of(recipe))
            log.start(
                name=plan.folder.name,
                experiment=recipe.register_as,
                params=recipe.flat(),
                tags={**tags_of(plan, world), **driven(choice), **made_of},
                dataset=dataset_facts(dataset),
            )
            shipper = stack.enter_context(BackgroundSync(plan.folder)) if first else None
            model, accuracy = train(
                plan.recipe, dataset, plan.folder, world, log,
                decoder=choice.decoder, checkpoint_interval=options.checkpoint_interval,
            )  # fmt: skip
            log.log(total, {"final/top1": accuracy.top1, "final/top5": accuracy.top5})
        if shipper is None:
            return None
        with ending_noted(log):
            _save_model(plan, model, accuracy, world, choice.decoder)
        log.finish("finished")
        registered = _register(plan.folder)
        if not shipper.wait(SHIPPING_SECONDS):
            console.print(
                f"MLflow does not have all metrics yet; bring them there with: trainer sync {plan.folder}"
            )
    hours = read_journal(plan.folder).seconds / 3600
    return {
        "run": str(plan.folder),
        "run_id": registered.run_id,
        "tracking_uri": tracking_uri(options.runs),
        "model": registered.uri,
        "version": registered.version,
        "top1": accuracy.top1,
        "top5": accuracy.top5,
        "images": accuracy.images,
        "images_per_second": _typical_speed(plan.folder),
        "device": device_name(world.device),
        "hours": hours,  # of all starts together, as the journal tells
        **({"usd": hours * options.price} if options.price else {}),
    }


def _finished_before(folder: Path, world: World) -> dict[str, Any] | None:
    """What came out of the run if it is finished, on all processes; they may be on several machines.

    Raises: CheckpointError if the run was begun, but the first process cannot see it.
    """
    done = world.broadcast_from_rank0(lambda: outcome_of(folder))
    begun = bool(list_checkpoints(folder / "checkpoints"))
    if not done and not world.broadcast_from_rank0(lambda: begun) and world.any(begun)[0]:
        raise CheckpointError(
            f"{folder} has checkpoints on another machine than the first process's, so that the run would begin anew; "
            "put --runs on storage that all machines share, or copy the folder"
        )
    return done


@contextmanager
def folder_of_ours(folder: Path) -> Iterator[Journal]:
    """The run's journal, with nobody else at work in its folder.

    Raises: TrackingError if another process trains this run, or the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        taken = TrackingError(
            f"{folder} is being trained by another process; wait for it, or start another run with --name"
        )
        # A predecessor that was told to end may still be at it.
        with file_lock(folder / "train.lock", timeout=LOCK_SECONDS, otherwise=taken):
            yield Journal(folder)
    except OSError as error:
        if error.errno not in OF_A_DISK:
            raise
        raise TrackingError(
            f"the run folder {folder} cannot be written: {error.strerror}; mend that, or choose another with --runs, "
            "and start again to go on"
        ) from None


@contextmanager
def ending_noted(log: RunLog) -> Iterator[None]:
    """Note in the journal how the run ended if it ends in here."""
    try:
        yield
    except (Stopped, KeyboardInterrupt):
        log.finish("interrupted")
        raise
    except BaseException:
        with suppress(OSError):  # a disk that is gone must not hide what went wrong
            log.finish("failed")
        raise


def _summary(plan: Plan) -> Summary | None:
    """What the network is made of; None if that cannot be found out, which hinders nobody from training it."""
    recipe = plan.recipe
    try:
        return summary_of(recipe.model, len(plan.dataset.classes), recipe.images.train_size)
    except ConfigError:
        return None


def dataset_facts(dataset: Dataset) -> DatasetInfo:
    """What MLflow is told of the data."""
    counts = {"train": len(dataset.train), "val": len(dataset.val), "classes": len(dataset.classes)}
    return DatasetInfo(dataset.name, dataset.digest, str(dataset.root.resolve()), counts)


def _register(folder: Path) -> Registered:
    """Register the run's model; wait a while for an MLflow that does not answer.

    Raises: TrackingError if it does not answer in time, or does not take the model; nothing is lost.
    """
    end = time.monotonic() + SHIPPING_SECONDS
    while True:
        try:
            return register(folder)
        except TrackingDown as error:
            if time.monotonic() > end:
                raise TrackingError(
                    f"training is done and all of it is in {folder}, but {error}; when MLflow answers, register "
                    f"the model with `trainer sync {folder}`"
                ) from None
            time.sleep(2)


def _save_model(
    plan: Plan, model: torch.nn.Module, accuracy: Accuracy, world: World, decoder: Decoder
) -> None:
    """Save the trained model after proving, on all validation images, that it is the one measured."""
    recipe, dataset = plan.recipe, plan.dataset
    alone = World(0, 1, world.device)
    # As many at a time as when it was measured, for cuDNN rounds otherwise with others.
    batch = min(recipe.micro_batch(world.size), VAL_BATCH)

    def measure(network: torch.nn.Module) -> tuple[float, float]:
        images = ValLoader(dataset.val, recipe.images, alone, batch=batch, decoder=decoder)
        with full_precision():
            again = evaluate(network.to(world.device), images, alone)
        return again.top1, again.top5

    chosen = np.linspace(0, len(dataset.val) - 1, min(SAMPLES, len(dataset.val))).astype(int)
    save_model(
        plan.folder,
        model,
        ModelInfo(
            architecture=recipe.model,
            classes=dataset.class_names,
            images=preprocessing(recipe.images),
            recipe=recipe.name,
            top1=accuracy.top1,
            top5=accuracy.top5,
            dataset_digest=dataset.digest,
        ),
        [
            Sample(
                name=dataset.val.path(index).name,
                jpeg=dataset.val.path(index).read_bytes(),
                label=int(dataset.val.labels[index]),
            )
            for index in chosen
        ],
        measure,
        name=recipe.register_as,
        images=accuracy.images,
    )


def tags_of(plan: Plan, world: World) -> dict[str, str]:
    """Where and by what the run was made, so that a number can be traced to its machine and code."""
    return {
        "recipe": plan.recipe.name,
        "git_commit": _git_commit(),
        "image": os.environ.get("TRAINER_IMAGE", "none"),
        "ngc": os.environ.get("NVIDIA_PYTORCH_VERSION", "none"),
        "gpu": device_name(world.device),
        "world_size": str(world.size),
        "precision": choose_precision(plan.recipe.precision, world.device).name,
        "dataset": plan.dataset.name,
        "dataset_digest": plan.dataset.digest,
        "versions": f"trainer {__version__}, torch {torch.__version__}, python {platform.python_version()}",
    }


def driven(choice: Choice) -> dict[str, str]:
    """What the machine decided, as tags: it changes when a run goes on elsewhere."""
    return {
        "batch_per_gpu": str(choice.batch_per_gpu),
        "speed": choice.speed,
        "decoder": choice.decoder,
    }


def device_name(device: torch.device) -> str:
    """The GPU's name, or cpu."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _git_commit() -> str:
    """The commit of this code: given by the image, or asked of git in a checkout."""
    if commit := os.environ.get("TRAINER_GIT_COMMIT"):
        return commit
    here = Path(__file__).parent
    try:
        asked = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"],
            cwd=here, capture_output=True, text=True, check=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return asked.stdout.strip()


def _typical_speed(folder: Path) -> float:
    """Median of the logged images/s: the first reading holds the start-up."""
    speeds = [p.value for p in read_journal(folder).points if p.key == metrics.THROUGHPUT]
    return float(np.median(speeds)) if speeds else 0.0


def _show_plan(plan: Plan, processes: int) -> None:
    recipe, dataset, network = plan.recipe, plan.dataset, _summary(plan)
    steps = recipe.steps_per_epoch(len(dataset.train))
    parts = recipe.accumulation(processes)
    show_table(
        "all is well; nothing was started",
        {
            "model": f"{recipe.model}, {network.line() if network else NOT_SUMMARIZED}",
            "data": f"{dataset.name}, {len(dataset.classes):,} classes, "
            f"{len(dataset.train):,} training and {len(dataset.val):,} validation images",
            "steps": f"{recipe.epochs} epochs of {steps:,} steps of {recipe.global_batch:,} images",
            "batch": f"{processes} process(es) x {parts} micro-batch(es) "
            f"of {recipe.micro_batch(processes)} images",
            "peak rate": f"{recipe.peak_lr:g}",
            "run": str(plan.folder),
        },
    )
