"""A watch over steps that fp16 skips: a few find the right loss scale, many mean that nothing is learned."""

from __future__ import annotations

import logging
from collections.abc import Mapping

from trainer import metrics

INTERVALS = 3  # log intervals in a row in which more than half of the steps are skipped
ENOUGH = 10  # steps; so many in a row are skipped while the loss scale is found

logger = logging.getLogger(__name__)


class LossScaleMonitor:
    """Reads the metrics of a run in fp16, and warns once when most of its steps are skipped."""

    def __init__(self) -> None:
        self._warned = False
        # End of the last log interval; None: the first one, whose number of steps is not known, is still to come.
        self._last_step: int | None = None
        self._intervals = self._steps = self._skipped = 0  # of the intervals in a row with too many

    def update(self, step: int, values: Mapping[str, float]) -> None:
        """Take in the metrics of the log interval that ends at `step`; ignored unless the loss is scaled."""
        if self._warned or metrics.SKIPPED_STEPS not in values:
            return
        before, self._last_step = self._last_step, step
        if before is None:
            return
        steps, skipped = step - before, int(values[metrics.SKIPPED_STEPS])
        if 2 * skipped <= steps:
            self._intervals = self._steps = self._skipped = 0
            return
        self._intervals += 1
        self._steps += steps
        self._skipped += skipped
        if self._steps < ENOUGH or (self._intervals < INTERVALS and self._skipped < self._steps):
            return
        self._warned = True
        logger.warning(
            "%d of the last %d steps were skipped, for their gradients are too large for fp16 or no numbers "
            "(loss scale %g); if that goes on, train again with a lower optimizer.base_lr (--set), or with "
            "precision=bf16 on a GPU that has it (Ampere or newer)",
            self._skipped,
            self._steps,
            values[metrics.LOSS_SCALE],
        )
