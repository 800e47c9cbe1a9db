"""One optimizer step: forward, backward, update, with no branch on precision and no host wait."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from inspect import signature

import torch
from torch.nn.parallel import DistributedDataParallel

from trainer.config import CompileMode, Execution, Recipe
from trainer.dataloader import Batch, TrainLoader
from trainer.dataset import Split
from trainer.distributed import World
from trainer.errors import ConfigError, Stopped
from trainer.model import build, skip_blocks
from trainer.training._losses import init_classifier_prior, make_loss
from trainer.training._meter import Meter
from trainer.training._precision import LossScaler, choose_precision

# torch 2.14 renamed it while it was made, and NGC's image holds a build from before its release.
_SYNC_BUFFERS = (
    "forward_sync_buffers"
    if "forward_sync_buffers" in signature(DistributedDataParallel).parameters
    else "broadcast_buffers"
)


def make_loader(split: Split, recipe: Recipe, world: World, execution: Execution) -> TrainLoader:
    """Training images in the type that the step computes with."""
    dtype = choose_precision(recipe.precision, world.device).image_dtype
    return TrainLoader(split, recipe, world, execution, dtype=dtype)


def make_model(recipe: Recipe, classes: int, world: World) -> torch.nn.Module:
    """The recipe's network as a run begins with it, on the device."""
    model = build(recipe.model, classes, zero_init_residual=recipe.zero_init_residual)
    if recipe.loss == "binary_cross_entropy" and recipe.bce_sum:
        init_classifier_prior(model)
    if recipe.sync_batch_norm and world.size > 1:
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    if recipe.stochastic_depth:
        skip_blocks(model, recipe.stochastic_depth)
    return model.to(world.device)


def compiled(model: torch.nn.Module, mode: CompileMode) -> Callable[[torch.Tensor], torch.Tensor]:
    """The network as it is, compiled, or compiled and replayed as CUDA graphs; all share the weights.

    Source: torch.compile's modes "default" and "reduce-overhead".
    """
    if mode == "off":
        return model
    logging.getLogger("torch._dynamo.variables.ctx_manager").addFilter(_worth_reading)
    name = "reduce-overhead" if mode == "cudagraphs" else "default"
    network: Callable[[torch.Tensor], torch.Tensor] = torch.compile(model, mode=name, dynamic=False)
    return network


def _worth_reading(record: logging.LogRecord) -> bool:
    """DistributedDataParallel marks itself for profilers; torch.compile says on each process that it does not."""
    return "Profiler record function" not in str(record.msg)


class Step:
    """Trains `model` on one global batch at a time."""

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        recipe: Recipe,
        world: World,
        execution: Execution = Execution(),
    ) -> None:
        self.precision = choose_precision(recipe.precision, world.device)
        self.scaler = LossScaler(world.device.type, enabled=self.precision.scaled)
        self._optimizer = optimizer
        self._loss = make_loss(recipe.at(0))
        self._clip_norm = recipe.optimizer.clip_norm
        self._accumulation_steps = recipe.accumulation_steps(world.size, execution.batch_per_gpu)
        if execution.compile == "cudagraphs" and self._accumulation_steps > 1:
            raise ConfigError(
                f"--compile cudagraphs cannot accumulate the gradients of {self._accumulation_steps} micro-batches; "
                "use --compile default, or a --batch-per-gpu that holds a GPU's whole share"
            )
        self._model, self._parallel = model, None
        if world.size > 1:
            device_ids = [world.device] if world.device.type == "cuda" else None
            # BatchNorm's buffers are made equal where they are read: before an evaluation, and in a checkpoint.
            self._parallel = DistributedDataParallel(
                model,
                device_ids=device_ids,
                gradient_as_bucket_view=True,
                **{_SYNC_BUFFERS: False},  # type: ignore[arg-type]
            )
        self._network = compiled(self._parallel or model, execution.compile)
        self._graphs, self._on_gpu = execution.compile == "cudagraphs", world.device.type == "cuda"
        self._compiled = execution.compile != "off"
        self._ahead: deque[torch.cuda.Event] = deque()

    def enter(self, phase: Recipe) -> None:
        """Take on what may change when a phase begins: the loss."""
        self._loss = make_loss(phase)

    def warm_up(self, sizes: Iterable[int], micro_batch: int) -> None:
        """Run passes on zeros for each crop size in pixels; weights and statistics stay as they are.

        After its first backward pass DistributedDataParallel sorts gradients into other buckets, and with
        three processes or more another bucket is another order of summation. A resumed run would take that
        step in the middle, an unbroken one at its start.

        CUDA graphs are recorded by the second pass, and replayed by the third. While DALI works in its own threads,
        what these ask of the GPU may spoil a recording (NVIDIA/DALI, pull request 6259).
        """
        if self._parallel is None and not self._graphs:
            return
        buffers = {name: buffer.clone() for name, buffer in self._model.named_buffers()}
        device = next(self._model.parameters()).device
        for size in [size for size in sizes for _ in range(3 if self._graphs else 1)]:
            zeros = torch.zeros(micro_batch, 3, size, size, device=device, dtype=self.precision.image_dtype)
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                with self.precision.autocast():
                    self._model.train()
                    logits = self._network(zeros.contiguous(memory_format=torch.channels_last))
                logits.sum().backward()  # type: ignore[no-untyped-call]
            self._optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in self._model.named_buffers():
                buffer.copy_(buffers[name])

    def rehearse(self, batch: Batch) -> None:
        """Run one forward and backward pass, compiled if it is to be, with no update and no exchange of gradients."""
        with self._maybe_no_sync(last=False):
            with self.precision.autocast():
                self._model.train()
                logits = self._network(batch.images)
            logits.sum().backward()  # type: ignore[no-untyped-call]
        self._optimizer.zero_grad(set_to_none=True)

    def __call__(
        self,
        batches: Iterator[Batch],
        lr: float,
        meter: Meter,
        *,
        momentum: float | None = None,
        asked_to_stop: Callable[[], bool] | None = None,
    ) -> None:
        """Take one optimizer step with learning rate `lr` on the next micro-batches of `batches`.

        `momentum` is that of SGD, where it is not the same all along.
        `asked_to_stop` is asked between two of them, by all processes alike.

        Raises: Stopped if it says so; all that a checkpoint holds is then as it was before the step.
        """
        between = asked_to_stop if self._accumulation_steps > 1 else None
        # What micro-batches change before the optimizer does: BatchNorm's statistics and the sums of the meter.
        before = [buffer.clone() for buffer in self._model.buffers()] if between else []
        sums = meter.sums.clone() if between else None
        self._model.train()
        mark = meter.timer.mark
        meter.timer.begin()
        for micro_step in range(self._accumulation_steps):
            if micro_step and between and between():
                self._optimizer.zero_grad(set_to_none=True)
                assert sums is not None
                with torch.no_grad():
                    meter.sums.copy_(sums)
                    for buffer, value in zip(self._model.buffers(), before, strict=True):
                        buffer.copy_(value)
                raise Stopped("stopped between two micro-batches")
            batch = next(batches)
            targets = batch.labels if batch.targets is None else batch.targets
            mark("data")
            with self._maybe_no_sync(last=micro_step == self._accumulation_steps - 1):
                with self.precision.autocast():
                    logits = self._network(batch.images)
                    loss = self._loss(logits, targets)
                mark("forward")
                self._limit_run_ahead()
                self.scaler.scale(loss / self._accumulation_steps).backward()  # type: ignore[no-untyped-call]
                mark("backward")
            meter.add(loss.detach(), logits.detach(), batch.labels)
            mark("count")
            self._limit_run_ahead()
        for group in self._optimizer.param_groups:
            group["lr"] = lr
            if momentum is not None:
                group["momentum"] = momentum
        if self._clip_norm:
            self.scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._clip_norm)
        self.scaler.step(self._optimizer)
        if self.scaler.is_enabled():
            # torch has no public way to these tensors that does not make the host wait (GradScaler.get_scale calls
            # .item()). All processes have the same gradients, and skip alike.
            found_inf = self.scaler._found_inf_per_device(self._optimizer)
            meter.scaled(found_inf.values(), self.scaler._get_scale_async())
        self.scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        mark("optimizer")

    def _limit_run_ahead(self) -> None:
        """Let the host be two passes ahead of the GPU at most, and sleep until then.

        CUDA takes about a thousand launches ahead, and the next one spins: one core of one, for the whole run. A
        micro-batch of ResNet-50 is some 600, half of them backward. Used batches of DALI's stay alive as long.
        """
        if not self._on_gpu:
            return
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        done.record()
        self._ahead.append(done)
        if len(self._ahead) > 2:
            self._ahead.popleft().synchronize()

    def release_memory(self) -> None:
        """Free the GPU memory of compiled code and CUDA graphs; the next step compiles anew."""
        if self._compiled and self._on_gpu:
            torch.compiler.reset()
            torch.cuda.empty_cache()

    def _maybe_no_sync(self, *, last: bool) -> AbstractContextManager[None]:
        """Without the exchange of gradients, but for the last backward pass of a step."""
        return nullcontext() if last or self._parallel is None else self._parallel.no_sync()
