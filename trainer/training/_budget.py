"""What a run may take: seconds over all its starts, and the accuracy at which it is done."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

Forecast = Callable[[int, Mapping[str, float]], str | None]

logger = logging.getLogger(__name__)


class Budget:
    """Asks for a stop when its seconds are over, as a spot notice does; whoever trains saves and ends.

        with StopRequest() as stop, budget.watch(stop.ask): …

    The processes need not have equal clocks: it is enough that one has a budget, they agree on each stop anyway.
    """

    def __init__(
        self,
        *,
        seconds: float | None = None,
        reason: str = "",
        until_top1: float | None = None,
        forecast: Forecast | None = None,
    ) -> None:
        """Set the limits.

        Args:
            seconds: that this start of the run may still take; None: any number.
            reason: why it stops then, as in "because --max-hours 2 is spent".
            until_top1: top-1 on the validation images at which the run is done, in 0..1; None: at its last epoch.
            forecast: told what was measured after so many steps, it answers why the seconds will not do, if they
                will not.
        """
        self.spent = ""  # why a stop was asked for; empty if none was
        self._seconds, self._reason = seconds, reason
        self._until_top1, self._forecast = until_top1, forecast
        self._ask: Callable[[str], None] | None = None
        self._timer: threading.Timer | None = None

    def watch(self, ask: Callable[[str], None]) -> Budget:
        """Call `ask` with the reason when the seconds are over, from a thread; they count from the `with` on."""
        self._ask = ask
        return self

    def __enter__(self) -> Budget:
        if self._seconds is not None:
            wait = min(max(0.0, self._seconds), threading.TIMEOUT_MAX)
            self._timer = threading.Timer(wait, self._stop, [self._reason])
            self._timer.daemon = True
            self._timer.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def check(self, step: int, values: Mapping[str, float]) -> None:
        """Ask for a stop if what was measured after `step` steps says that the seconds will not do."""
        if self._forecast and (reason := self._forecast(step, values)):
            self._stop(reason)

    def reached(self, top1: float) -> bool:
        """Whether a run that has measured `top1` is done before its last epoch."""
        return self._until_top1 is not None and top1 >= self._until_top1

    def tell_reached(self, top1: float, epoch: float, epochs: int, lr: float, peak_lr: float) -> None:
        """Say that a run is done at its target, and what that costs: its schedule has not come to its end."""
        logger.warning(
            "top-1 %.2f %% after epoch %.0f of %d: that is what --until-top1 asks for, so the run ends here; its "
            "learning rate is still %.2g of %.2g: with all its epochs it would probably gain more",
            100 * top1,
            epoch,
            epochs,
            lr,
            peak_lr,
        )

    def close(self) -> None:
        """Ask for nothing any more: training is done, and what is left ends by itself."""
        if self._timer:
            self._timer.cancel()
        self._ask = None

    def _stop(self, reason: str) -> None:
        if self._ask:
            self.spent = reason
            logger.warning("the run stops, %s", reason)
            self._ask(reason)
