"""One process of a run: tune, train, save, register, and write the result."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

import numpy as np
import torch

from trainer import metrics, ranks
from trainer.checkpoint import list_checkpoints
from trainer.config import Decoder
from trainer.dataloader import ValLoader, preprocessing
from trainer.distributed import World, join_world
from trainer.errors import CheckpointError, TrackingDown, TrackingError
from trainer.files import write_text
from trainer.model import rebuild
from trainer.performance import halve_batch_when_out_of_memory
from trainer.predictions import write_predictions
from trainer.run._background_bundle import BackgroundBundle
from trainer.run._background_report import BackgroundReport
from trainer.run._beginning import begin
from trainer.run._budget import budget_of, budget_words
from trainer.run._eta import Eta
from trainer.run._execution import execution_of
from trainer.run._lr_origin import lr_origin
from trainer.run._metadata import dataset_info, device_name, execution_tags, run_tags
from trainer.run._options import StartOptions
from trainer.run._parent import parent_tags
from trainer.run._plan import Plan
from trainer.run._preflight import network_summary
from trainer.run._result import RunResult, read_result, write_result
from trainer.run._samples import samples_of
from trainer.run._session import exclusive_run_dir, record_exit_status
from trainer.tracking import (
    PRICE,
    BackgroundSync,
    ModelInfo,
    NullLog,
    Point,
    Registered,
    RunInfo,
    RunLog,
    RunRef,
    TensorBoardLog,
    local_url,
    promote_if_asked,
    read_journal,
    read_run_ref,
    redact,
    register,
    run_url,
    runs_url,
    save_model,
    tracking_uri,
)
from trainer.training import VAL_BATCH, Accuracy, evaluate, full_precision, train

MODEL_TABLE = "model.txt"
NOT_SUMMARIZED = "the layers of this network cannot be counted here, see `trainer summary`"
BUNDLE_SECONDS = 3600  # that it waits for the bundle, which takes minutes
REPORT_SECONDS = 600  # that it waits for the report, which takes seconds
SYNC_SECONDS = 120  # that the end of a run waits for MLflow

logger = logging.getLogger(__name__)

Display = Callable[[RunLog, Eta, Sequence[Point]], AbstractContextManager[RunLog]]


def work(plan: Plan, options: StartOptions, display: Display | None) -> RunResult | None:
    """Train as one of the run's processes; the first one tracks and registers, and returns the result.

    Args:
        plan: what to train, and where.
        options: how.
        display: see `train_run`.
    """
    recipe, dataset, folder = plan.recipe, plan.dataset, plan.folder
    steps_per_epoch = recipe.steps_per_epoch(len(dataset.train))
    total = recipe.epochs * steps_per_epoch
    is_main = ranks.rank() == 0
    with ExitStack() as stack:
        log: RunLog = NullLog()
        parameters: dict[str, str] = {}
        price = options.price * ranks.machines() if options.price else None  # per hour, of all machines
        money = {PRICE: f"{price:g}"} if price else {}
        if is_main:
            log = stack.enter_context(exclusive_run_dir(folder))
            plan.write()
            if options.tensorboard:
                log = stack.enter_context(TensorBoardLog(log, folder))
            summary = network_summary(plan)
            write_text(folder / MODEL_TABLE, summary.table() if summary else f"{NOT_SUMMARIZED}\n")
            logger.info("%s: %s", recipe.model, summary.line() if summary else NOT_SUMMARIZED)
            parameters = {"parameters": str(summary.parameters)} if summary else {}
            if display:
                earlier = read_journal(folder, empty=True)
                eta = Eta(
                    elapsed=earlier.seconds,
                    price=price,
                    total_steps=total,
                    images_per_step=recipe.global_batch,
                    epochs=recipe.epochs,
                )
                log = stack.enter_context(display(log, eta, earlier.points))
        with record_exit_status(log), join_world(options.device, timeout=options.timeout) as world:
            if done := _finished_before(folder, world):
                return done if is_main else None
            world.broadcast_from_rank0(lambda: begin(plan, options.runs))
            with world.detect_lost_ranks():
                execution = execution_of(plan, options, world)
            origin = lr_origin(plan)
            words = budget_words(options)
            known = read_journal(folder, empty=True).tags if is_main else {}
            budget_tag = {"budget": words or "none"} if words or "budget" in known else {}
            log.start(
                RunInfo(
                    name=folder.name,
                    experiment=recipe.experiment,
                    params=recipe.flat(),
                    tags={
                        **run_tags(plan, world),
                        "promote": recipe.promote,
                        **execution_tags(execution),
                        **parameters,
                        **money,
                        **({"mirror": options.runs_remote} if options.runs_remote else {}),
                        **budget_tag,
                        **parent_tags(folder),
                        **origin.tags,
                    },
                    dataset=dataset_info(dataset),
                    description="\n\n".join(filter(None, (recipe.description, origin.sentence))),
                )
            )
            sync = stack.enter_context(BackgroundSync(folder)) if is_main else None
            if is_main:
                stack.enter_context(_say_where(folder))
            with halve_batch_when_out_of_memory(folder, world, execution, options.batch_per_gpu):
                model, accuracy = train(
                    recipe,
                    dataset,
                    folder,
                    world,
                    log,
                    execution=execution,
                    checkpoint_interval=options.checkpoint_interval,
                    budget=budget_of(plan, options),
                )
        if sync is None:
            return None
        with record_exit_status(log):
            batch = min(recipe.micro_batch(world.size, execution.batch_per_gpu), VAL_BATCH)
            _save_model(plan, model, accuracy, world, batch, execution.decoder)
            _keep_predictions(folder, accuracy)
        log.finish("finished")
        registered = _register(folder)
        bundle = None
        if not options.no_export:
            torch.cuda.empty_cache()  # the bundle is measured there
            bundle = stack.enter_context(BackgroundBundle(folder, registered, options.device))
        if not sync.wait(SYNC_SECONDS):
            logger.warning(
                "MLflow does not have all metrics yet; send the rest with: trainer sync %s", folder
            )
        exported = bundle.wait(BUNDLE_SECONDS) if bundle else None
        _promote(folder, registered)
        # After the bundle, of which it has a table.
        report = None if options.no_report else stack.enter_context(BackgroundReport(folder))
        page = report.wait(REPORT_SECONDS) if report else None
        result = _result(plan, options, registered, accuracy, device_name(world.device), page, exported)
        write_result(folder, result)
        return result


@contextmanager
def _say_where(folder: Path) -> Iterator[None]:
    """Say where the run can be watched, as soon as the sync has made it in MLflow; nothing waits for that."""
    ended = threading.Event()
    here = redact(tracking_uri(folder.parent))

    def found() -> RunRef | None:
        ref = read_run_ref(folder)
        return ref if ref and ref.tracking_uri == here else None  # not where a copied run was before

    def wait() -> None:
        while not (ref := found()) and not ended.wait(0.5):
            pass
        if ref:
            local = f"it with: mlflow ui --backend-store-uri {ref.tracking_uri}, and open {local_url(ref)}"
            logger.info("watch %s", run_url(ref) or local)
            if others := runs_url(ref):
                logger.info("all runs %s", others)

    thread = threading.Thread(target=wait, name="say-where", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _finished_before(folder: Path, world: World) -> RunResult | None:
    """The result of a run that is finished, on all processes; they may be on several machines.

    Raises: CheckpointError if the run was begun, but the first process cannot see it.
    """
    done = world.broadcast_from_rank0(lambda: read_result(folder))
    begun = bool(list_checkpoints(folder / "checkpoints"))
    if not done and not world.broadcast_from_rank0(lambda: begun) and world.any(begun)[0]:
        raise CheckpointError(
            f"{folder} has checkpoints on another machine than that of the first process, so that the run would begin "
            "anew; put --runs on storage that all machines share, or copy the folder"
        )
    return done


def _save_model(
    plan: Plan,
    model: torch.nn.Module,
    accuracy: Accuracy,
    world: World,
    batch: int,
    decoder: Decoder | None,
) -> None:
    """Save the trained model after proving, on all validation images, that it is the one measured.

    Args:
        plan: of the run.
        model: trained, in eval mode.
        accuracy: as measured at the end of training.
        world: for the device.
        batch: images at a time, as when it was measured: cuDNN rounds otherwise with others.
        decoder: as when it was measured.
    """
    recipe, dataset = plan.recipe, plan.dataset
    alone = World(0, 1, world.device)

    def measure(network: torch.nn.Module) -> tuple[float, float]:
        images = ValLoader(dataset.val, recipe.preprocess, alone, batch=batch, decoder=decoder)
        with full_precision():
            again = evaluate(network.to(world.device), images, alone)
        return again.top1, again.top5

    save_model(
        plan.folder,
        model,
        ModelInfo(
            architecture=recipe.model,
            class_ids=dataset.classes,
            classes=dataset.class_names,
            preprocess=preprocessing(recipe.preprocess),
            recipe=recipe.name,
            top1=accuracy.top1,
            top5=accuracy.top5,
            dataset_digest=dataset.digest,
        ),
        samples_of(dataset.val, preprocessing(recipe.preprocess)),
        measure,
        rebuild=lambda weights: rebuild(recipe.model, len(dataset.classes), weights),
        name=recipe.registered_model_name,
        num_images=accuracy.num_images,
    )


def _keep_predictions(folder: Path, accuracy: Accuracy) -> None:
    """Leave the predictions for the report; a run does not fail for want of one."""
    try:
        if accuracy.predictions:
            write_predictions(folder, accuracy.predictions)
    except OSError as error:
        logger.warning(
            "the predictions could not be kept (%s): the report comes without them", error.strerror or error
        )


def _register(folder: Path) -> Registered:
    """Register the run's model; wait a while for an MLflow that does not answer.

    Raises: TrackingError if it does not answer in time, or does not take the model; nothing is lost.
    """
    end = time.monotonic() + SYNC_SECONDS
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


def _promote(folder: Path, registered: Registered) -> None:
    """Make the version the champion, now that devices find its bundle; a run does not fail for want of that."""
    try:
        promote_if_asked(folder, registered)
    except TrackingError as error:
        logger.warning("nothing is done about the champion, `trainer sync %s` does it: %s", folder, error)


def _result(
    plan: Plan,
    options: StartOptions,
    registered: Registered,
    accuracy: Accuracy,
    device: str,
    report: Path | None,
    bundle: Path | None,
) -> RunResult:
    history, ref = read_journal(plan.folder), read_run_ref(plan.folder)
    throughputs = [point.value for point in history.points if point.key == metrics.THROUGHPUT]
    hours = history.seconds / 3600
    return RunResult(
        run=str(plan.folder),
        run_id=registered.run_id,
        tracking_uri=redact(tracking_uri(options.runs)),
        model=registered.uri,
        version=registered.version,
        top1=accuracy.top1,
        top5=accuracy.top5,
        num_images=accuracy.num_images,
        # The median, for the first value of each start holds the start-up.
        images_per_second=float(np.median(throughputs)) if throughputs else 0.0,
        device=device,
        hours=hours,
        usd=hours * options.price * ranks.machines() if options.price else None,
        report=str(report) if report else None,
        bundle=str(bundle) if bundle else None,
        url=run_url(ref) if ref else None,
    )
