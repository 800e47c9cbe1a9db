"""What the user sees: log lines with a time, a progress bar on a terminal, one table at the end."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from trainer import metrics, ranks
from trainer.cli._curves import Curves
from trainer.cli._live_line import LiveLine, epoch_line
from trainer.run import Eta
from trainer.tracking import Ending, Point, RunInfo, RunLog

if TYPE_CHECKING:
    from rich.progress import Progress

ROOM = 10  # rows of a terminal from which on curves are shown too

# Off a terminal, lines are never folded: a path must stay whole in a log.
# Nothing is markup: names of files and classes may look like it.
_options: dict[str, Any] = {"highlight": False, "soft_wrap": True, "markup": False, "emoji": False}
console = Console(stderr=True, **_options)  # progress and messages
_results = Console(**_options)

logger = logging.getLogger(__name__)


def configure_logging() -> None:
    """Show what `trainer` logs: above the bar on a terminal, else as lines with date, level and rank.

    Of several processes the first shows all, the others their warnings only.
    """
    rank = f"[rank {ranks.rank()}] " if ranks.world_size() > 1 else ""
    handler = _ConsoleHandler(logging.INFO if ranks.rank() == 0 else logging.WARNING)
    if console.is_terminal:
        handler.setFormatter(logging.Formatter(f"%(asctime)s {rank}%(message)s", "%H:%M:%S"))
    else:
        handler.setFormatter(
            logging.Formatter(f"%(asctime)s %(levelname)s {rank}%(message)s", "%Y-%m-%d %H:%M:%S")
        )
    ours = logging.getLogger("trainer")
    ours.handlers = [handler]
    ours.setLevel(logging.INFO)
    # A library that calls logging.warning() gives a root logger without handlers one, which would show ours again.
    if not logging.root.handlers:
        others = logging.StreamHandler()
        others.setLevel(logging.WARNING)
        others.addFilter(lambda record: not record.name.startswith("trainer"))
        logging.root.addHandler(others)


class _ConsoleHandler(logging.Handler):
    """Prints through rich's console, which keeps the bar below."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            console.print(self.format(record), style="bold" if record.levelno >= logging.WARNING else None)
        except (Exception, SystemExit):  # of a terminal that is gone; rich exits on a broken pipe
            self.handleError(record)


class ConsoleLog:
    """A run's log that also shows on the terminal what passes through it: a line that moves with each step, and curves.

    Args:
        log: the run's.
        eta: its time and money.
        points: what an earlier start of the run has measured.
    """

    def __init__(self, log: RunLog, eta: Eta, points: Iterable[Point] = ()) -> None:
        from trainer.gpu import gpu_utilization  # brings torch, which others who print do not need

        self._log, self._eta = log, eta
        self._throughput = 0.0  # images/s as measured last; 0: not known yet
        self.line = LiveLine(eta)
        self.curves = Curves(gpu_utilization)
        for point in points:
            self.curves.measured({point.key: point.value})
        shown = [self.line, self.curves] if console.height >= ROOM else [self.line]
        # Gone when the run is over: what stays are the lines of the epochs.
        self._live = Live(Group(*shown), console=console, refresh_per_second=4, transient=True)

    def __enter__(self) -> ConsoleLog:
        if console.is_terminal:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def start(self, info: RunInfo) -> None:
        """Pass on, silently."""
        self._log.start(info)

    def truncate_after(self, step: int) -> None:
        """Pass on; say where a run goes on."""
        self._log.truncate_after(step)
        if step:
            logger.info("going on from the checkpoint at step %d of %d", step, self._eta.total_steps)
        self.line.begin(step)

    def step_done(self, step: int) -> None:
        """Pass on; move the bar."""
        self._log.step_done(step)
        self.line.step_done(step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Pass on; show loss and learning rate, and a line for each evaluation."""
        self._log.log(step, values)
        self._eta.update(step, values)
        self.line.measured(values)
        self.curves.measured(values)
        self._throughput = values.get(metrics.THROUGHPUT, self._throughput)
        speed = f"{self._throughput:,.0f}/s" if self._throughput else ""
        if metrics.VAL_TOP1 in values:
            stamp = len("00:00:00 ")
            logger.info(
                "%s",
                epoch_line(
                    step, values, speed, self._eta, console.width - stamp if console.is_terminal else 0
                ),
            )
        elif metrics.TRAIN_LOSS in values and not console.is_terminal:
            logger.info(
                "step %d of %d: loss %.3f, lr %.4g, %s images/s, waiting for data %.0f%%, %s",
                step,
                self._eta.total_steps,
                values[metrics.TRAIN_LOSS],
                values[metrics.LR],
                f"{self._throughput:,.0f}",
                100 * values[metrics.DATA_WAIT],
                self._eta,
            )

    def flush(self) -> None:
        """Pass on."""
        self._log.flush()

    def finish(self, status: Ending, reason: str = "") -> None:
        """Pass on, silently."""
        self._log.finish(status, reason)


def show_table(title: str, rows: Mapping[str, str]) -> None:
    """Print `rows` as two columns."""
    width = max(len(name) for name in rows)
    _results.print(Text.assemble("\n", (title, "bold")))
    for name, value in rows.items():
        _results.print(Text.assemble((f"{name:<{width}}", "bold"), "  ", value))


def byte_bars() -> Progress:
    """Bars of bytes, with their speed and the time that is left."""
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )

    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
        console=console,
        disable=not console.is_terminal,
    )
