"""What the user sees: log lines with a time, a progress bar on a terminal, one table at the end."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from trainer import metrics, ranks
from trainer.run import Eta
from trainer.tracking import Ending, RunInfo, RunLog

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
    root = logging.getLogger("trainer")
    root.handlers = [handler]
    root.setLevel(logging.INFO)


class _ConsoleHandler(logging.Handler):
    """Prints through rich's console, which keeps the bar below."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            console.print(self.format(record), style="bold" if record.levelno >= logging.WARNING else None)
        except (Exception, SystemExit):  # of a terminal that is gone; rich exits on a broken pipe
            self.handleError(record)


class _EtaColumn(ProgressColumn):
    """Time and money, as they go."""

    max_refresh = 0.5  # seconds

    def __init__(self, eta: Eta) -> None:
        self._eta = eta
        super().__init__()

    def render(self, task: Task) -> Text:
        return Text(str(self._eta))


class ConsoleLog:
    """A run's log that also shows on the terminal what passes through it."""

    def __init__(self, log: RunLog, eta: Eta) -> None:
        self._log, self._eta = log, eta
        self._total, self._throughput = eta.total_steps, 0.0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            _EtaColumn(eta),
            TextColumn("{task.fields[state]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("training", total=self._total, state="")

    def __enter__(self) -> ConsoleLog:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def start(self, info: RunInfo) -> None:
        """Pass on, silently."""
        self._log.start(info)

    def truncate_after(self, step: int) -> None:
        """Pass on; say where a run goes on."""
        self._log.truncate_after(step)
        if step:
            logger.info("going on from the checkpoint at step %d of %d", step, self._total)
        self._progress.update(self._task, completed=step)

    def step_done(self, step: int) -> None:
        """Pass on; move the bar."""
        self._log.step_done(step)
        self._progress.update(self._task, completed=step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Pass on; show loss, learning rate and throughput, and a line for each evaluation."""
        self._log.log(step, values)
        self._eta.update(step, values)
        self._throughput = values.get(metrics.THROUGHPUT, self._throughput)
        if metrics.VAL_TOP1 in values:
            logger.info(
                "epoch %.0f of %d: top-1 %.2f%%, top-5 %.2f%%, loss %.3f, %s images/s, %s",
                step / self._eta.steps_per_epoch,
                self._eta.epochs,
                100 * values[metrics.VAL_TOP1],
                100 * values[metrics.VAL_TOP5],
                values[metrics.VAL_LOSS],
                f"{self._throughput:,.0f}",
                self._eta,
            )
        elif metrics.TRAIN_LOSS in values:
            state = f"loss {values[metrics.TRAIN_LOSS]:.3f}, lr {values[metrics.LR]:.4g}"
            self._progress.update(self._task, state=f"{state}, {self._throughput:,.0f} images/s")
            if not console.is_terminal:
                logger.info(
                    "step %d of %d: %s, %s images/s, waiting for data %.0f%%, %s",
                    step,
                    self._total,
                    state,
                    f"{self._throughput:,.0f}",
                    100 * values[metrics.DATA_WAIT],
                    self._eta,
                )

    def flush(self) -> None:
        """Pass on."""
        self._log.flush()

    def finish(self, status: Ending) -> None:
        """Pass on, silently."""
        self._log.finish(status)


def show_table(title: str, rows: Mapping[str, str]) -> None:
    """Print `rows` as two columns."""
    width = max(len(name) for name in rows)
    _results.print(Text.assemble("\n", (title, "bold")))
    for name, value in rows.items():
        _results.print(Text.assemble((f"{name:<{width}}", "bold"), "  ", value))
