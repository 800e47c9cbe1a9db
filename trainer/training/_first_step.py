"""Says how long a step takes, during the first one: on a CPU it may take minutes, in which nothing else is said."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

LONG = 30.0  # seconds of a step that are worth a line

logger = logging.getLogger(__name__)


class FirstStep:
    """An estimate from the second micro-batch, for the first one compiles and opens what is used later; said once."""

    def __init__(
        self, images: int, micro_batches: int, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """Start the clock.

        Args:
            images: of a step, all processes together.
            micro_batches: of a step in each process.
            clock: a clock in seconds.
        """
        self._images, self._micro_batches, self._clock = images, micro_batches, clock
        self._done, self._last = 0, clock()

    def micro_batch_done(self) -> None:
        """Note that the host is done with one more."""
        if self._done == 2:
            return
        now = self._clock()
        self._done, took, self._last = self._done + 1, now - self._last, now
        whole = took * self._micro_batches
        # Of two there is no second one before the end.
        if (self._done == 2 or self._micro_batches == 2) and whole >= LONG:
            minutes, seconds = divmod(round(whole), 60)
            logger.info(
                "a step of %s images takes about %d:%02d here, in %d parts of %s images; a stop is heeded between them",
                f"{self._images:,}",
                minutes,
                seconds,
                self._micro_batches,
                f"{self._images // self._micro_batches:,}",
            )
            self._done = 2
