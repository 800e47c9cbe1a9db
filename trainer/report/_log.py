"""The training log: one row an epoch, of a run's journal or as others have published theirs."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt

from trainer import metrics
from trainer.errors import ConfigError
from trainer.files import read_regular
from trainer.tracking import BEGUN, Point, RunHistory

Values = npt.NDArray[np.float64]
MOST_BYTES = 10_000_000  # of a published log

# A published log's words for ours: train or val stands before them, or in the file's name, or they are of validation.
WORDS = {"acc": "top1", "accuracy": "top1", "acc1": "top1", "acc5": "top5", "top_1": "top1", "top_5": "top5"}
LR_WORDS = ("lr", "learning_rate", "learning_rate_at_epoch_end")


@dataclass(frozen=True)
class Epoch:
    """One row of the log; nan where nothing was measured."""

    epoch: int  # from 1 on
    train_loss: float = math.nan  # nats, mean over the epoch
    train_top1: float = math.nan  # share of the augmented images in 0..1
    train_top5: float = math.nan
    val_loss: float = math.nan  # nats
    val_top1: float = math.nan  # share of the validation images in 0..1
    val_top5: float = math.nan
    lr: float = math.nan  # at the end of the epoch
    images_per_second: float = math.nan  # of training, all processes together
    data_wait_share: float = math.nan  # of the training time, in 0..1
    seconds: float = math.nan  # training and evaluation, without interruptions


@dataclass(frozen=True)
class Log:
    """What was measured of a run, or published of one."""

    name: str
    epochs: tuple[Epoch, ...]
    steps: Mapping[str, tuple[Values, Values]] = field(default_factory=dict)  # by metric: epochs done, values

    def column(self, name: str) -> tuple[Values, Values]:
        """Epochs and values of a column of `Epoch`, where it was measured."""
        rows = np.array([(row.epoch, getattr(row, name)) for row in self.epochs], float).reshape(-1, 2)
        rows = rows[np.isfinite(rows[:, 1])]
        return rows[:, 0], rows[:, 1]

    def best(self) -> Epoch | None:
        """The epoch of the highest accuracy on the validation images."""
        measured = [row for row in self.epochs if math.isfinite(row.val_top1)]
        return max(measured, key=lambda row: row.val_top1, default=None)


def log_of(history: RunHistory, *, name: str = "") -> Log:
    """The log of a run, as far as it has come."""
    images = history.dataset.counts.get("train", 0) if history.dataset else 0
    batch = int(history.params.get("global_batch", 1))
    steps_per_epoch = max(1, images // batch)
    by_key: dict[str, list[Point]] = {}
    for point in history.points:
        by_key.setdefault(point.key, []).append(point)
    steps = {}
    for key, points in by_key.items():
        last = {point.step: point.value for point in points if math.isfinite(point.value)}
        at = np.array(sorted(last), float)
        steps[key] = at / steps_per_epoch, np.array([last[int(step)] for step in at])
    begun = float(history.tags.get(BEGUN, 0))
    return Log(name or history.name, tuple(_epochs(steps, steps_per_epoch, batch, begun)), steps)


def _epochs(
    steps: Mapping[str, tuple[Values, Values]], steps_per_epoch: int, batch: int, begun: float
) -> Iterator[Epoch]:
    nothing = np.zeros(0), np.zeros(0)
    last = max((float(at[-1]) for at, _ in steps.values() if len(at)), default=0.0)
    ends, speeds = steps.get(metrics.THROUGHPUT, nothing)
    images = np.diff(ends, prepend=begun) * steps_per_epoch * batch  # of each log interval
    for number in range(int(begun) + 1, math.ceil(last) + 1):
        inside = (ends > number - 1) & (ends <= number)

        def mean(key: str, inside: npt.NDArray[np.bool_] = inside) -> float:
            at, values = steps.get(key, nothing)
            if len(at) != len(ends) or not inside.any():
                return math.nan
            return float(np.average(values[inside], weights=images[inside]))

        def at_end(key: str, number: int = number) -> float:
            at, values = steps.get(key, nothing)
            here = np.flatnonzero((at > number - 1) & (at <= number))
            return float(values[here[-1]]) if len(here) else math.nan

        seconds = float((images[inside] / speeds[inside]).sum()) if inside.any() else math.nan
        evaluation = at_end(metrics.EVALUATION_SECONDS)
        yield Epoch(
            epoch=number,
            train_loss=mean(metrics.TRAIN_LOSS),
            train_top1=mean(metrics.TRAIN_TOP1),
            train_top5=mean(metrics.TRAIN_TOP5),
            val_loss=at_end(metrics.VAL_LOSS),
            val_top1=at_end(metrics.VAL_TOP1),
            val_top5=at_end(metrics.VAL_TOP5),
            lr=at_end(metrics.LR),
            images_per_second=float(images[inside].sum() / seconds) if seconds > 0 else math.nan,
            data_wait_share=mean(metrics.DATA_WAIT),
            seconds=seconds + (evaluation if math.isfinite(evaluation) else 0.0),
        )


def read_log(path: Path) -> Log:
    """A log that somebody has published as CSV: `epoch` and `loss`, `top1`, `top5`, or `log.csv` of a report.

    Columns are `train_…` or `val_…`; without that they are of training if the file's name or a column of learning
    rates says so, else of validation. Accuracies above 1 are taken for percent. Rows without `epoch` are counted.

    Raises: ConfigError if it is none.
    """
    try:
        text = read_regular(path, most=MOST_BYTES).decode("utf-8-sig")
        rows = list(csv.DictReader(io.StringIO(text)))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(
            f"the log {path} cannot be read: {reason}; give a run folder or a CSV file"
        ) from None
    columns = _columns(path, list(rows[0]) if rows else [])
    if not rows or not columns:
        raise ConfigError(
            f"the log {path} has no column of loss, top1 or top5; its first line must name its columns, such as "
            "epoch,loss,top1,top5"
        )
    found = {ours: np.array([_number(row.get(theirs)) for row in rows]) for theirs, ours in columns.items()}
    for name, values in found.items():
        if name.endswith(("top1", "top5")) and np.nanmax(values, initial=0.0) > 1:
            found[name] = values / 100
    counted = np.arange(1.0, len(rows) + 1)
    numbers = np.array([_number(row.get("epoch")) for row in rows]) if "epoch" in rows[0] else counted
    numbers = np.where(np.isfinite(numbers) & (np.abs(numbers) < 1e6), numbers, counted)
    epochs = [
        Epoch(epoch=int(number), **{name: float(values[at]) for name, values in found.items()})
        for at, number in enumerate(numbers)
    ]
    return Log(path.stem, tuple(epochs))


def _columns(path: Path, names: Sequence[str | None]) -> dict[str, str]:
    """Ours by the file's."""
    plain = {str(name): str(name).strip().lower().replace(" ", "_") for name in names if name is not None}
    of_training = "train" in path.stem.lower() or any(name in LR_WORDS for name in plain.values())
    known = {one.name for one in fields(Epoch)} - {"epoch"}
    found = {}
    for theirs, name in plain.items():
        if name in LR_WORDS:
            found[theirs] = "lr"
            continue
        where, _, what = name.partition("_")
        if where in ("train", "val", "valid", "eval", "test") and what:
            where = "train" if where == "train" else "val"
        else:
            where, what = ("train" if of_training else "val"), name
        ours = f"{where}_{WORDS.get(what, what)}"
        if ours in known:
            found[theirs] = ours
        elif name in known:
            found[theirs] = name
    return found


def _number(text: str | None) -> float:
    try:
        return float(str(text).strip().rstrip("%"))
    except ValueError:
        return math.nan


HEADINGS = {
    "epoch": "epoch",
    "train_loss": "train loss",
    "train_top1": "train top-1, %",
    "train_top5": "train top-5, %",
    "val_loss": "val loss",
    "val_top1": "val top-1, %",
    "val_top5": "val top-5, %",
    "lr": "learning rate",
    "images_per_second": "images/s",
    "data_wait_share": "waiting for data, %",
    "seconds": "seconds",
}


def log_csv(log: Log) -> str:
    """One line an epoch, accuracies in percent, as published tables have it."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(HEADINGS)
    writer.writerows([["" if cell is None else f"{cell:.6g}" for cell in row] for row in _cells(log)])
    return text.getvalue()


def log_table(log: Log) -> list[list[str]]:
    """The rows as they are read: rounded, an empty cell where nothing was measured."""
    digits = {"lr": ".3g", "train_loss": ".4f", "val_loss": ".4f", "epoch": ".0f", "seconds": ",.0f"}
    forms = [digits.get(name, ",.1f" if name == "images_per_second" else ".2f") for name in HEADINGS]
    return [
        ["" if cell is None else format(cell, form) for cell, form in zip(row, forms, strict=True)]
        for row in _cells(log)
    ]


def log_md(log: Log, facts: Iterable[tuple[str, str]]) -> str:
    """The log as Markdown: what the run was, and a row an epoch."""
    lines = [f"# Training log of {_plain(log.name)}", ""]
    lines += [f"- {name}: {_plain(text)}" for name, text in facts]
    lines += ["", f"| {' | '.join(HEADINGS.values())} |", "|" + "---:|" * len(HEADINGS)]
    lines += [f"| {' | '.join(row)} |" for row in log_table(log)]
    return "\n".join(lines) + "\n"


def _plain(text: str) -> str:
    """On one line, and no markup in a table or list."""
    for sign in "\\`*_[]<>|":
        text = text.replace(sign, f"\\{sign}")
    return " ".join(text.split())


def _cells(log: Log) -> Iterator[list[float | None]]:
    for row in log.epochs:
        cells = []
        for name in HEADINGS:
            value = float(getattr(row, name))
            percent = name.endswith(("top1", "top5", "share"))
            cells.append(None if math.isnan(value) else 100 * value if percent else value)
        yield cells
