"""A run on one line of a terminal, however narrow: what matters least is left out first."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.progress_bar import ProgressBar
from rich.text import Text

from trainer import metrics
from trainer.run import Eta

BAR = (8, 40)  # columns at least and at most
WINDOW = 20  # steps of which the throughput is shown


class LiveLine:
    """Epoch, bar within the epoch, loss, learning rate, images/s, time and dollars; drawn anew a few times a second.

    It counts steps as the host does, two passes ahead of a GPU at most, and waits for nothing.
    """

    def __init__(self, eta: Eta) -> None:
        self._eta = eta
        self._values: dict[str, float] = {}
        self.begin(0)

    def begin(self, step: int) -> None:
        """Start, or go on, after `step` steps."""
        self._step, self._validating = step, False
        self._ends: deque[tuple[float, int]] = deque(maxlen=WINDOW + 1)  # of steps: clock, step
        self._speed = 0.0  # images/s of the newest steps; 0: not known

    def step_done(self, step: int) -> None:
        """Note the end of a step."""
        self._step, self._validating = step, step % self._eta.steps_per_epoch == 0
        self._ends.append((self._eta.clock(), step))
        (begun, first), (ended, last) = self._ends[0], self._ends[-1]
        if ended > begun:
            self._speed = (last - first) * self._eta.images_per_step / (ended - begun)

    def measured(self, values: Mapping[str, float]) -> None:
        """Show these metrics from now on."""
        self._values.update(values)
        if metrics.VAL_TOP1 in values:
            self._validating = False
            self._ends.clear()  # an evaluation is no step

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Draw it, never wider than the terminal."""
        width = options.max_width
        epoch = max(1, -(-self._step // self._eta.steps_per_epoch))
        within = self._step - (epoch - 1) * self._eta.steps_per_epoch
        first, *rest = fitted([(9, f"epoch {epoch}/{self._eta.epochs}"), *self._fields()], width - BAR[0] - 1)
        bar = min(BAR[1], width - cell_len(" ".join([first, *rest])) - 1)
        if bar < BAR[0]:
            yield Text(first[:width], end="")
            return
        yield Text(f"{first} ", end="")
        yield ProgressBar(self._eta.steps_per_epoch, within, width=bar)
        yield Text(" ".join(["", *rest]), end="")

    def _fields(self) -> list[tuple[int, str]]:
        values, eta = self._values, self._eta
        fields = [(3, f"top-1 {values[metrics.VAL_TOP1]:.2%}")] if metrics.VAL_TOP1 in values else []
        if self._validating:
            fields.append((8, "validating"))
        elif self._step == eta.total_steps:
            fields.append((8, "measuring, saving and registering the model"))
        elif metrics.TRAIN_LOSS in values:
            fields += [(8, f"loss {values[metrics.TRAIN_LOSS]:.3f}"), (5, f"lr {values[metrics.LR]:.3g}")]
            fields += [(4, f"{self._speed:,.0f}/s")] if self._speed else []
        return [*fields, (7, eta.times()), *([(6, eta.costs())] if eta.costs() else [])]


def epoch_line(step: int, values: Mapping[str, float], speed: str, eta: Eta, width: int) -> str:
    """The line that stays of an epoch.

    Args:
        step: optimizer steps done.
        values: metrics of the evaluation.
        speed: images/s as text; empty if not known.
        eta: time and money of the run.
        width: columns of the terminal that are left for it; 0: no terminal.
    """
    fields = [
        (9, f"epoch {step / eta.steps_per_epoch:.0f}/{eta.epochs}"),
        (8, f"top-1 {values[metrics.VAL_TOP1]:.2%}"),
        (6, f"top-5 {values[metrics.VAL_TOP5]:.2%}"),
        (4, f"loss {values[metrics.VAL_LOSS]:.3f}"),
        (3, speed),
        (7, eta.times()),
        (5, eta.costs()),
    ]
    return " ".join(fitted([(weight, text) for weight, text in fields if text], width or 1000))


def fitted(fields: Sequence[tuple[int, str]], width: int) -> list[str]:
    """The texts of `fields` that fit in `width` columns beside each other; of lower weight are left out first.

    The one of highest weight is always there.
    """
    kept = list(fields)
    while len(kept) > 1 and cell_len(" ".join(text for _, text in kept)) > width:
        kept.remove(min(kept))
    return [text for _, text in kept]
