"""Steps that fp16 makes the trainer skip: a few find the right scale of the loss, many mean that nothing is learned."""

from __future__ import annotations

from collections.abc import Callable

from trainer import metrics

READINGS = 3  # in a row, in which more than half of the steps are skipped
ENOUGH = 10  # steps; so many in a row are skipped while the scale of the loss is found


class LossScaleMonitor:
    """Looks at each reading of a run in fp16, and says once that most of its steps are skipped."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        """Get ready; `tell` takes the sentence."""
        self._tell = tell
        self._told = False
        self._read: int | None = None  # the step of the last reading; what was before the first is not known
        self._readings = self._steps = self._skipped = 0  # of the readings in a row with too many

    def look(self, step: int, values: dict[str, float]) -> None:
        """Take note of the reading at `step`; nothing to see unless the loss is scaled."""
        if self._told or metrics.SKIPPED_STEPS not in values:
            return
        before, self._read = self._read, step
        if before is None:
            return
        steps, skipped = step - before, int(values[metrics.SKIPPED_STEPS])
        if 2 * skipped <= steps:
            self._readings = self._steps = self._skipped = 0
            return
        self._readings, self._steps, self._skipped = (
            self._readings + 1, self._steps + steps, self._skipped + skipped,
        )  # fmt: skip
        if self._steps < ENOUGH or (self._readings < READINGS and self._skipped < self._steps):
            return
        self._told = True
        self._tell(
            f"{self._skipped} of the last {self._steps} steps were skipped, for their gradients are too large for "
            f"fp16 or no numbers (loss scale {values[metrics.LOSS_SCALE]:g}); if that goes on, train again with a "
            "lower optimizer.base_lr (--set), or with precision=bf16 on a GPU that has it (Ampere or newer)"
        )
