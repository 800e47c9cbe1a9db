"""Training, from the first step or from where it was, to the last."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from trainer import metrics
from trainer.checkpoint import INTERVAL, Checkpoints, Stateful
from trainer.config import Execution, Recipe
from trainer.dataloader import ValLoader
from trainer.dataset import Dataset
from trainer.distributed import World
from trainer.errors import Stopped, TrainingDiverged
from trainer.stop import StopRequest
from trainer.tracking import RunLog
from trainer.training._budget import Budget
from trainer.training._draws import reseeded
from trainer.training._ema import EMA
from trainer.training._evaluation import VAL_BATCH, Accuracy, evaluate, full_precision
from trainer.training._first_step import FirstStep
from trainer.training._input_stall import InputStall
from trainer.training._loss_scale import LossScaleMonitor
from trainer.training._meter import Meter
from trainer.training._mixing import mixed
from trainer.training._optimizer import make_optimizer
from trainer.training._phases import Phases
from trainer.training._schedule import learning_rate, momentum
from trainer.training._spot import SpotWatch, metadata_service
from trainer.training._step import Step, make_loader, make_model


@dataclass
class Progress:
    """How far a run has come."""

    step: int = 0  # optimizer steps done
    evaluated: int = 0  # the step of the last evaluation
    best_top1: float = 0.0
    best: int = 0  # the step of the best evaluation
    top1: float = 0.0  # of the last evaluation
    top5: float = 0.0

    def state_dict(self) -> dict[str, Any]:
        """The state as plain data."""
        return asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Load a state."""
        for name, value in state.items():
            setattr(self, name, value)


def train(
    recipe: Recipe,
    dataset: Dataset,
    folder: Path,
    world: World,
    log: RunLog,
    *,
    execution: Execution = Execution(),
    checkpoint_interval: float = INTERVAL,
    budget: Budget | None = None,
) -> tuple[torch.nn.Module, Accuracy]:
    """Train until the recipe's epochs are done; go on from the newest checkpoint in `folder`.

    Args:
        recipe: what to train.
        dataset: training and validation images.
        folder: the run's own folder; checkpoints go below it.
        world: the processes that train together.
        log: log of the run; a `NullLog` on all processes but the first.
        execution: micro-batch, compile mode and decoder on this machine.
        checkpoint_interval: seconds of training between two checkpoints; there is one after each epoch as well.
        budget: what the run may take; None: what it needs.

    Returns: the trained model in eval mode, and its accuracy in fp32 on the validation images, with predictions.
    Raises: Stopped if asked to stop, with everything saved; TrainingDiverged; DataError; CheckpointError;
        ProcessLost.
    """
    torch.manual_seed(recipe.seed)
    checkpoints = Checkpoints(
        folder / "checkpoints",
        world,
        recipe=recipe,
        dataset_digest=dataset.digest,
        classes=dict(zip(dataset.classes, dataset.class_names, strict=True)),
        interval=checkpoint_interval,
    )
    stop = StopRequest()
    spot = SpotWatch(metadata_service() if world.is_local_main else None, notice=stop.ask)
    budget = budget or Budget()
    with stop, spot, budget.watch(stop.ask), world.detect_lost_ranks(), checkpoints:
        # What flows: images -> model -> step.
        images = make_loader(dataset.train, recipe, world, execution)
        val_images = ValLoader(
            dataset.val,
            recipe.preprocess,
            world,
            batch=min(images.micro_batch, VAL_BATCH),
            decoder=execution.decoder,
        )
        classes = len(dataset.classes)
        model = make_model(recipe, classes, world)
        optimizer = make_optimizer(model, recipe)
        step = Step(model, optimizer, recipe, world, execution)
        step.warm_up(sorted({recipe.train_size(e) for e in range(recipe.epochs)}), images.micro_batch)
        epoch = images.steps_per_epoch
        ema = EMA(model, recipe, steps_per_epoch=epoch)

        # What steers: pure functions of progress.step, so there is no schedule and no reader to save.
        total = epoch * recipe.epochs
        lr_at = learning_rate(recipe, steps_per_epoch=epoch)
        momentum_at = momentum(recipe, steps_per_epoch=epoch)
        phases = Phases(recipe, step, steps_per_epoch=epoch)

        # What outlives this process, by name. Everything else is rebuilt from the recipe.
        progress, meter = Progress(), Meter(world)
        input_stall = InputStall(dataset.train.root, on_gpu=execution.decoder != "cpu")
        loss_scale = LossScaleMonitor()
        states: dict[str, Stateful] = {
            "model": model,
            "optimizer": optimizer,
            "scaler": step.scaler,
            "progress": progress,
            "meter": meter,
        }
        if recipe.uses_ema:
            states["ema"] = ema
        checkpoints.restore_newest(states)
        first_step = progress.step
        log.truncate_after(first_step)

        def save() -> None:
            # A checkpoint must not know more than the journal, so that is flushed before.
            checkpoints.save(progress.step, states, best=progress.best, flush_first=log.flush)

        def asked_to_stop() -> bool:
            return world.any(stop.made)[0]

        pace = FirstStep(recipe.global_batch, images.accumulation_steps)

        def asked_between_micro_batches() -> bool:
            pace.micro_batch_done()
            return asked_to_stop()

        batches = mixed(
            images.batches(first_step=first_step, last_step=total),
            recipe,
            classes,
            world,
            accumulation_steps=images.accumulation_steps,
            steps_per_epoch=epoch,
            first_step=first_step,
        )
        batches = reseeded(
            batches, recipe, world, accumulation_steps=images.accumulation_steps, first_step=first_step
        )
        try:
            if asked_to_stop():
                raise Stopped("stopped during the start-up")
            while True:
                # Due at this step. A run cut off in here repeats it when it comes back.
                if progress.step % epoch == 0 and progress.step > progress.evaluated:
                    begun = time.perf_counter()
                    measured = ema.module.eval()
                    # BatchNorm's statistics differ between processes; those that are saved are measured.
                    world.broadcast(measured.buffers())
                    with step.precision.autocast():
                        accuracy = evaluate(measured, val_images, world, stop=asked_to_stop)
                    progress.evaluated = progress.step
                    progress.top1, progress.top5 = accuracy.top1, accuracy.top5
                    if accuracy.top1 > progress.best_top1 or not progress.best:
                        progress.best_top1, progress.best = accuracy.top1, progress.step
                    took = time.perf_counter() - begun
                    of_epoch = {metrics.EPOCH: progress.step / epoch, metrics.EVALUATION_SECONDS: took}
                    log.log(progress.step, {**accuracy.values(), **of_epoch})
                    budget.check(progress.step, of_epoch)
                    save()
                    meter.exclude(time.perf_counter() - begun)
                target = progress.evaluated == progress.step and budget.reached(progress.top1)
                if progress.step == total or target:
                    break

                # One update.
                phases.enter(progress.step)
                lr = lr_at(progress.step)
                speed = momentum_at(progress.step) if momentum_at else None
                step(batches, lr, meter, momentum=speed, asked_to_stop=asked_between_micro_batches)
                progress.step += 1
                ema.update(progress.step)
                meter.step_done()
                log.step_done(progress.step)

                # First they agree: whoever reads what a stuck process should have sent, would wait out of reach.
                stopping, due = world.any(stop.made, checkpoints.due())
                # Between evaluations and checkpoints, the host waits for the device only here.
                if progress.step % recipe.log_every == 0 or progress.step % epoch == 0:
                    now = meter.read(step=progress.step, lr=lr)
                    log.log(progress.step, now)
                    budget.check(progress.step, now)
                    if world.is_main:  # the figures are those of all processes
                        loss_scale.update(progress.step, now)
                    if world.is_main and world.device.type == "cuda":  # a CPU that trains binds itself
                        input_stall.update(now[metrics.DATA_WAIT])
                if stopping:
                    raise Stopped("stopped on request")
                if due and progress.step % epoch:  # else it comes with the evaluation
                    save()
            checkpoints.wait()
            budget.close()
            if world.is_main and progress.step < total:
                lr = lr_at(progress.step)
                budget.tell_reached(progress.top1, progress.step / epoch, recipe.epochs, lr, recipe.peak_lr)

            # What will be registered is measured as it will be used: in fp32, with the memory that training needed.
            step.release_memory()
            measured = ema.module.eval()
            with full_precision():
                return measured, evaluate(measured, val_images, world, stop=asked_to_stop, keep=classes)
        except TrainingDiverged as error:
            raise error.after(checkpoints.newest()) from None
        except Stopped:
            if progress.step > first_step:  # else the newest checkpoint, if there is one, says it all
                save()
                checkpoints.wait()
            spent = world.broadcast_from_rank0(lambda: budget.spent)
            raise Stopped(
                f"stopped {spent or stop.reason} at step {progress.step} of {total}, everything saved; "
                f"start the same command {'with a larger budget' if spent else 'again'} to go on"
            ) from None
