"""What the user sees: a progress bar on a terminal, plain lines elsewhere, one table at the end."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn
from rich.text import Text

from trainer import metrics
from trainer.cli._spending import Spending
from trainer.tracking import RunLog

# Off a terminal, lines are never folded: a path must stay whole in a log.
_options: dict[str, Any] = {"highlight": False, "soft_wrap": True}
console = Console(stderr=True, markup=False, **_options)  # what is going on
_results = Console(**_options)  # what came out


class _SpendingColumn(ProgressColumn):
    """Time and money, as they go."""

    max_refresh = 0.5  # seconds

    def __init__(self, spending: Spending) -> None:
        self._spending = spending
        super().__init__()

    def render(self, task: Task) -> Text:
        return Text(str(self._spending))


class Shown:
    """A run's log that also shows on the terminal what passes through it."""

    def __init__(self, log: RunLog, *, total: int, steps_per_epoch: int, spending: Spending) -> None:
        self._log, self._total, self._epoch = log, total, steps_per_epoch
        self._rate, self._spending = 0.0, spending
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("steps"),
            _SpendingColumn(spending),
            TextColumn("{task.fields[speed]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._progress.add_task("training", total=total, speed="")

    def __enter__(self) -> Shown:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def start(self, **facts: Any) -> None:
        """Pass on, silently."""
        self._log.start(**facts)

    def note(self, text: str) -> None:
        """Pass on, and tell at once."""
        console.print(f"trainer: {text}", style="bold")
        self._log.note(text)

    def truncate_after(self, step: int) -> None:
        """Pass on; tell where a run goes on."""
        self._log.truncate_after(step)
        if step:
            console.print(f"going on from the checkpoint at step {step} of {self._total}")
        self._progress.update(self._task, completed=step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Pass on; advance the bar, and a line for each evaluation."""
        self._log.log(step, values)
        self._spending.look(step, values)
        self._rate = values.get(metrics.THROUGHPUT, self._rate)
        self._progress.update(self._task, completed=step, speed=f"{self._rate:,.0f} images/s")
        if metrics.VAL_TOP1 in values:
            console.print(
                f"epoch {step / self._epoch:.0f} of {self._total // self._epoch}: "
                f"top-1 {values[metrics.VAL_TOP1]:.2%}, top-5 {values[metrics.VAL_TOP5]:.2%}, "
                f"loss {values[metrics.VAL_LOSS]:.3f}, {self._rate:,.0f} images/s, "
                f"{self._spending}"
            )
        elif metrics.TRAIN_LOSS in values and not console.is_terminal:
            console.print(
                f"step {step} of {self._total}: loss {values[metrics.TRAIN_LOSS]:.3f}, "
                f"learning rate {values[metrics.LR]:.4g}, {self._rate:,.0f} images/s, "
                f"waiting for data {values[metrics.DATA_WAIT]:.0%}"
            )

    def flush(self) -> None:
        """Pass on."""
        self._log.flush()

    def finish(self, status: Any) -> None:
        """Pass on, silently."""
        self._log.finish(status)


def show_table(title: str, rows: Mapping[str, str]) -> None:
    """Print `rows` as two columns."""
    width = max(len(name) for name in rows)
    _results.print(f"\n[bold]{escape(title)}[/bold]")
    for name, value in rows.items():
        _results.print(f"[bold]{name:<{width}}[/bold]  {escape(value)}")
