"""What the steps of a log interval add up to: loss, accuracy, throughput, and where the time went."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

import torch

from trainer import metrics
from trainer.distributed import World
from trainer.errors import TrainingDiverged
from trainer.training._step_timer import StepTimer


class Meter:
    """Sums over the steps of a log interval, kept on the device until they are read."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.timer = StepTimer(world.device)
        self._reset()

    def _reset(self) -> None:
        #: of this process: loss x images, top1, top5, images
        self.sums = torch.zeros(4, dtype=torch.float64, device=self._world.device)
        self._skipped = torch.zeros((), device=self._world.device)  # steps; the same on all processes
        self._scale: torch.Tensor | None = None  # of the loss; None: it is not scaled
        self._before = 0.0  # images of the sums that a process before this one counted
        self._steps, self._since = 0, time.perf_counter()
        self._longest_step_seconds, self._last_step_end = 0.0, self._since

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The sums of each process: a run cut off between two reads loses none."""
        return {"sums": self._world.all_gather(self.sums), "skipped": self._skipped}

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        """Load this process's sums; another number of processes leaves them all to the first."""
        rows = state["sums"].to(self._world.device)
        if len(rows) == self._world.size:
            self.sums = rows[self._world.rank].clone()
        elif self._world.is_main:
            self.sums = rows.sum(dim=0)
        self._before = float(rows[:, 3].sum())
        self._skipped += state.get("skipped", torch.zeros(())).to(self._world.device)

    def add(self, loss: torch.Tensor, logits: torch.Tensor, labels: torch.Tensor) -> None:
        """Count one micro-batch; `loss` is its mean."""
        best = logits.topk(min(5, logits.shape[1])).indices == labels[:, None]
        count = torch.full_like(loss, len(labels))
        self.sums += torch.stack([loss * count, best[:, 0].sum(), best.sum(), count]).double()

    def scaled(self, found_inf: Iterable[torch.Tensor], scale: torch.Tensor | None) -> None:
        """Note a step whose loss was multiplied by `scale`, skipped if any of `found_inf` is not 0."""
        for found in found_inf:
            self._skipped += found.to(self._skipped.device) != 0
        self._scale = scale

    def step_done(self) -> None:
        """Note the end of a step, as the host sees it."""
        now = time.perf_counter()
        self._longest_step_seconds = max(self._longest_step_seconds, now - self._last_step_end)
        self._last_step_end = now
        self._steps += 1

    def exclude(self, seconds: float) -> None:
        """Leave `seconds` of evaluation or saving out of the throughput and of the longest step."""
        self._since += seconds
        self._last_step_end += seconds

    def read(self, *, step: int, lr: float) -> dict[str, float]:
        """Means over all processes since the last `read`; waits for the device.

        Raises: TrainingDiverged, on all processes alike, if the loss is not a number.
        """
        loss, top1, top5, images = self._world.all_reduce_sum(self.sums).tolist()
        seconds = time.perf_counter() - self._since
        phases = self.timer.read()
        # All processes are as fast as the one that waits longest.
        waits = self._world.all_gather(torch.tensor(phases.get("data", 0.0), device=self._world.device))
        steps, longest_step_seconds, before = self._steps, self._longest_step_seconds, self._before
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
            metrics.LONGEST_STEP: longest_step_seconds,
            **{f"{metrics.STEP_MS}{name}": 1000 * spent / max(1, steps) for name, spent in phases.items()},
        }
        if scale is not None:
            values |= {metrics.SKIPPED_STEPS: float(skipped), metrics.LOSS_SCALE: float(scale)}
        if self._world.device.type == "cuda":
            values[metrics.GPU_MEMORY] = torch.cuda.max_memory_allocated(self._world.device) / 2**30
        return values
