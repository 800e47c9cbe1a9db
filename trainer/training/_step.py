"""One optimizer step: forward, backward, update, with no branch on precision and no host wait."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from trainer import metrics
from trainer.config import CompileMode, Execution, Optimizer, Recipe
from trainer.dataloader import Batch
from trainer.distributed import World
from trainer.errors import ConfigError, TrainingDiverged
from trainer.model import build
from trainer.training._step_timer import StepTimer


@dataclass(frozen=True)
class Precision:
    """What the recipe's precision comes to on this device."""

    name: str  # fp32, bf16 or fp16
    device_type: str

    @property
    def scaled(self) -> bool:
        """Whether small gradients must be kept from vanishing by scaling the loss."""
        return self.name == "fp16"

    def autocast(self) -> torch.autocast:
        """A context in which matrix work runs in this precision."""
        dtype = torch.float16 if self.name == "fp16" else torch.bfloat16
        return torch.autocast(self.device_type, dtype=dtype, enabled=self.name != "fp32")


def choose_precision(wanted: str, device: torch.device) -> Precision:
    """The wanted precision, or what comes closest on `device`.

    bf16 needs compute capability 8.0 (Ampere): a T4 claims it and emulates it, so it gets fp16.
    A CPU gets bf16 where it has instructions for it and fp32 elsewhere, never fp16.
    """
    if device.type == "cuda":
        old = torch.cuda.get_device_capability(device) < (8, 0)
        return Precision("fp16" if wanted == "bf16" and old else wanted, "cuda")
    capable = torch.cpu._is_avx512_bf16_supported()
    return Precision("bf16" if wanted != "fp32" and capable else "fp32", "cpu")


def make_model(recipe: Recipe, classes: int, world: World) -> torch.nn.Module:
    """The recipe's network as a run begins with it, on the device."""
    model = build(recipe.model, classes, zero_init_residual=recipe.zero_init_residual)
    if recipe.loss == "binary_cross_entropy":
        init_classifier_prior(model)
    if recipe.sync_batch_norm and world.size > 1:
        model = torch.nn.SyncBatchNorm.convert_sync_batchnorm(model)  # type: ignore[no-untyped-call]
    return model.to(world.device)


def parameter_groups(model: torch.nn.Module, optimizer: Optimizer) -> list[dict[str, Any]]:
    """Weights with decay; BatchNorm parameters and biases without, unless the recipe says so.

    Source: He et al. 2018, arXiv:1812.01187, section 3.1 ("no bias decay").
    """
    weights = [p for p in model.parameters() if p.ndim > 1 or optimizer.decay_norm_and_bias]
    others = [p for p in model.parameters() if p.ndim <= 1 and not optimizer.decay_norm_and_bias]
    return [
        {"params": weights, "weight_decay": optimizer.weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]


def make_optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD or AdamW as the recipe says; the learning rate is set at each step.

    Fused: one pass over the weights, and on a GPU it alone takes GradScaler's verdict on the device, where other forms
    make the host wait for it at every step.
    """
    settings = recipe.optimizer
    groups = parameter_groups(model, settings)
    if settings.name == "adamw":
        return torch.optim.AdamW(groups, lr=0.0, betas=(settings.momentum, 0.999), fused=True)
    sgd = torch.optim.SGD(groups, lr=0.0, momentum=settings.momentum, nesterov=settings.nesterov, fused=True)
    if settings.momentum:
        # Else the fused one begins with whatever memory holds where GradScaler skips the first step, as in fp16 it
        # usually does. Seen in torch 2.14; github.com/LibreYOLO/libreyolo, pull request 771, met it too.
        for group in sgd.param_groups:
            for weights in group["params"]:
                sgd.state[weights]["momentum_buffer"] = torch.zeros_like(weights)
    return sgd


Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def make_loss(recipe: Recipe) -> Loss:
    """The recipe's loss, a mean over images in nats: from logits (N, C) and labels (N,), or shares (N, C).

    Binary cross-entropy is summed over the classes, as MosaicML's recipes have it; others (timm) take the mean, which
    is 1,000 times less for ImageNet. Label smoothing moves a share of each target to all classes alike, in both.

    Source: torch.nn.functional; github.com/mosaicml/composer, composer/loss, `binary_cross_entropy_with_logits`.
    """
    smoothing = recipe.label_smoothing
    if recipe.loss == "cross_entropy":
        return lambda logits, targets: F.cross_entropy(logits, targets, label_smoothing=smoothing)

    def binary_cross_entropy(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        classes = logits.shape[1]
        shares = F.one_hot(targets, classes) if targets.ndim == 1 else targets
        shares = (1 - smoothing) * shares.to(logits.dtype) + smoothing / classes
        return F.binary_cross_entropy_with_logits(logits, shares, reduction="sum") / len(logits)

    return binary_cross_entropy


def init_classifier_prior(model: torch.nn.Module) -> None:
    """Let the classifier expect each of its classes once in as many images, as binary cross-entropy needs it.

    Source: github.com/mosaicml/examples, resnet_imagenet/model.py; Lin et al. 2017, arXiv:1708.02002, section 4.1.
    """
    classifiers = [layer for layer in model.modules() if isinstance(layer, torch.nn.Linear)]
    if classifiers and classifiers[-1].bias is not None:
        torch.nn.init.constant_(classifiers[-1].bias, -math.log(classifiers[-1].out_features))


def compiled(model: torch.nn.Module, mode: CompileMode) -> Callable[[torch.Tensor], torch.Tensor]:
    """The network as it is, compiled, or compiled and replayed as CUDA graphs; all share the weights.

    Source: torch.compile's modes "default" and "reduce-overhead".
    """
    if mode == "off":
        return model
    name = "reduce-overhead" if mode == "cudagraphs" else "default"
    network: Callable[[torch.Tensor], torch.Tensor] = torch.compile(model, mode=name, dynamic=False)
    return network


class LossScaler(torch.amp.GradScaler):
    """GradScaler that a run may bring from a device on which it scaled nothing: from bf16 or the CPU to a T4's fp16."""

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up a state; of an empty one, which a scaler that is not enabled has, nothing."""
        if state_dict:
            super().load_state_dict(state_dict)


class Meter:
    """Sums of what happened since the last reading, kept on the device until then."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.phases = StepTimer(world.device)
        self._reset()

    def _reset(self) -> None:
        # loss x images, top1, top5, images
        self._sums = torch.zeros(4, dtype=torch.float64, device=self._world.device)
        self._skipped = torch.zeros((), device=self._world.device)  # steps; the same on all processes
        self._scale: torch.Tensor | None = None  # of the loss; None: it is not scaled
        self._before = 0.0  # of these images were counted before this process was there
        self._steps, self._since = 0, time.perf_counter()
        self._longest, self._stepped = 0.0, self._since

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The sums of each process: a run cut off between two readings loses none."""
        return {"sums": self._world.all_gather(self._sums), "skipped": self._skipped}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Take up this process's sums; another number of processes leaves them all to the first."""
        rows = state["sums"].to(self._world.device)
        if len(rows) == self._world.size:
            self._sums = rows[self._world.rank].clone()
        elif self._world.is_main:
            self._sums = rows.sum(dim=0)
        self._before = float(rows[:, 3].sum())
        self._skipped += state.get("skipped", torch.zeros(())).to(self._world.device)

    def add(self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count one micro-batch; `loss` is its mean."""
        best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        count = torch.full_like(loss, len(labels))
        self._sums += torch.stack([loss * count, best[:, 0].sum(), best.sum(), count]).double()

    def scaled(self, found_inf: Iterable[torch.Tensor], scale: torch.Tensor | None) -> None:
        """Note a step whose loss was multiplied by `scale`, skipped if any of `found_inf` is not 0."""
        for found in found_inf:
            self._skipped += found.to(self._skipped.device) != 0
        self._scale = scale

    def stepped(self) -> None:
        """Note the end of a step, as the host sees it."""
        now = time.perf_counter()
        self._longest, self._stepped = max(self._longest, now - self._stepped), now
        self._steps += 1

    def leave_out(self, seconds: float) -> None:
        """Take time that was not spent on training (evaluation, checkpoints) out of the rates."""
        self._since += seconds
        self._stepped += seconds

    def read(self, *, step: int, lr: float) -> dict[str, float]:
        """Means over all processes since the last reading; waits for the device.

        Raises: TrainingDiverged, on all processes alike, if the loss is not a number.
        """
        loss, top1, top5, images = self._world.all_reduce_sum(self._sums).tolist()
        seconds = time.perf_counter() - self._since
        phases = self.phases.read()
        # All processes go as fast as the one that waits most.
        waits = self._world.all_gather(torch.tensor(phases.get("data", 0.0), device=self._world.device))
        steps, longest, before = self._steps, self._longest, self._before
        skipped, scale = self._skipped, self._scale
        self._reset()
        if not math.isfinite(loss):
            raise TrainingDiverged(step=step, loss=loss / images, learning_rate=lr)
        values = {
            metrics.TRAIN_LOSS: loss / images,
            metrics.TRAIN_TOP1: top1 / images,
            metrics.TRAIN_TOP5: top5 / images,
            metrics.LR: lr,
            metrics.THROUGHPUT: (images - before) / seconds,
            metrics.DATA_WAIT: min(1.0, float(waits.max()) / seconds),
            metrics.LONGEST_STEP: longest,
            **{f"{metrics.STEP_MS}{name}": 1000 * spent / max(1, steps) for name, spent in phases.items()},
        }
        if scale is not None:
            values |= {metrics.SKIPPED_STEPS: float(skipped), metrics.LOSS_SCALE: float(scale)}
        if self._world.device.type == "cuda":
            values[metrics.GPU_MEMORY] = torch.cuda.max_memory_allocated(self._world.device) / 2**30
        return values


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
        self._loss = make_loss(recipe)
        self._clip_norm = recipe.optimizer.clip_norm
        self._accumulation_steps = recipe.accumulation_steps(world.size, execution.batch_per_gpu)
        if execution.compile == "cudagraphs" and self._accumulation_steps > 1:
            raise ConfigError(
                f"--compile cudagraphs cannot accumulate the gradients of {self._accumulation_steps} micro-batches; use "
                "--compile default, or a --batch-per-gpu that holds a GPU's whole share"
            )
        self._model, self._parallel = model, None
        if world.size > 1:
            device_ids = [world.device] if world.device.type == "cuda" else None
            self._parallel = DistributedDataParallel(
                model, device_ids=device_ids, gradient_as_bucket_view=True
            )
        self._network = compiled(self._parallel or model, execution.compile)
        self._graphs, self._on_gpu = execution.compile == "cudagraphs", world.device.type == "cuda"
        self._compiled = execution.compile != "off"
        self._ahead: deque[torch.cuda.Event] = deque()

    def warm_up(self, sizes: Iterable[int], micro_batch: int) -> None:
        """Take passes for nothing, for each size of crops in pixels; weights and statistics stay as they are.

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
            nothing = torch.zeros(micro_batch, 3, size, size, device=device)
            with torch.random.fork_rng([device] if device.type == "cuda" else []):
                with self.precision.autocast():
                    self._model.train()
                    answer = self._network(nothing.contiguous(memory_format=torch.channels_last))
                answer.sum().backward()  # type: ignore[no-untyped-call]
            self._optimizer.zero_grad(set_to_none=True)
        with torch.no_grad():
            for name, buffer in self._model.named_buffers():
                buffer.copy_(buffers[name])

    def __call__(self, batches: Iterator[Batch], lr: float, meter: Meter) -> None:
        """Take the micro-batches of one step from `batches` and update the weights with learning rate `lr`."""
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._model.train()
        mark = meter.phases.mark
        meter.phases.begin()
        for micro_step in range(self._accumulation_steps):
            images, labels, targets = next(batches)[:3]
            mark("data")
            with self._maybe_no_sync(last=micro_step == self._accumulation_steps - 1):
                with self.precision.autocast():
                    logits = self._network(images)
                    loss = self._loss(logits, labels if targets is None else targets)
                mark("forward")
                self.scaler.scale(loss / self._accumulation_steps).backward()  # type: ignore[no-untyped-call]
                mark("backward")
            meter.add(loss.detach(), logits.detach(), labels)
            mark("count")
        if self._clip_norm:
            self.scaler.unscale_(self._optimizer)
            torch.nn.utils.clip_grad_norm_(self._model.parameters(), self._clip_norm)
        self.scaler.step(self._optimizer)
        if self.scaler.is_enabled():
            # No public way leads to them without a host wait. All processes have the same gradients, and skip alike.
            found_inf = self.scaler._found_inf_per_device(self._optimizer)
            meter.scaled(found_inf.values(), self.scaler._get_scale_async())
        self.scaler.update()
        self._optimizer.zero_grad(set_to_none=True)
        mark("optimizer")
        if self._graphs and self._on_gpu:
            self._limit_run_ahead()

    def _limit_run_ahead(self) -> None:
        """Be two steps ahead of the GPU at most.

        A step of other networks is hundreds of launches, of which CUDA takes about a thousand at a time. One of graphs
        is a few, and DALI frees a batch only when the GPU has done all that was asked of it.
        """
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record()
        self._ahead.append(done)
        if len(self._ahead) > 2:
            self._ahead.popleft().synchronize()

    def release_memory(self) -> None:
        """Give back what compiled code and recorded graphs hold of the GPU's memory; a next step makes them anew."""
        if self._compiled and self._on_gpu:
            torch.compiler.reset()
            torch.cuda.empty_cache()

    def _maybe_no_sync(self, *, last: bool) -> AbstractContextManager[None]:
        """Processes exchange gradients once a step, in the last backward pass."""
        return nullcontext() if last or self._parallel is None else self._parallel.no_sync()
