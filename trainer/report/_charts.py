"""The charts of a report: what each shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer import metrics
from trainer.report._drawing import INK, LINE, MUTED, OTHERS, SERIES, TRAIN, VAL, Panel
from trainer.report._log import Log, Values
from trainer.report._metrics import Bin, Slice

if TYPE_CHECKING:
    from matplotlib.axes import Axes

DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (5, 1.5, 1, 1.5)))
POINTS = 600  # of a line; more are not seen


def _at_most_all(axes: Axes) -> None:
    """No tick above 100 %, nor below none."""
    low, high = axes.get_ylim()
    axes.set_ylim(max(low, -1.5), min(high, 101.5))


def curves(
    log: Log, others: Sequence[Log], bar: float | None, phases: Sequence[int] = ()
) -> dict[str, tuple[str, Panel]]:
    """What changed over the run, by name: what it shows in words, and the drawing; dotted where `phases` begin."""

    def marked(panel: Panel) -> Panel:
        def draw(axes: Axes) -> None:
            panel(axes)
            for epoch in phases:
                axes.axvline(epoch, color=MUTED, linewidth=1, linestyle=(0, (1, 2)), zorder=1.5)

        return draw

    def loss(axes: Axes) -> None:
        _title(axes, "Loss", "cross-entropy, nats")
        _pair(axes, log, others, "loss", scale=1)

    def top1(axes: Axes) -> None:
        _title(axes, "Top-1", "accuracy, %")
        _pair(axes, log, others, "top1", scale=100)
        _at_most_all(axes)
        if bar:
            axes.axhline(100 * bar, color=INK, linewidth=1, linestyle=(0, (4, 3)))
            axes.annotate(
                f"to reach: {bar:.1%}",
                (1, 100 * bar),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                fontsize=8.5,
                xytext=(0, 2),
                textcoords="offset points",
            )
        _legend(axes)

    def top5(axes: Axes) -> None:
        _title(axes, "Top-5", "accuracy, %")
        _pair(axes, log, others, "top5", scale=100)
        _at_most_all(axes)

    def lr(axes: Axes) -> None:
        _title(axes, "Learning rate", "learning rate")
        _others(axes, others, "lr", scale=1)
        _steps(axes, log, metrics.LR, colour=TRAIN, label=log.name)

    def throughput(axes: Axes) -> None:
        _title(axes, "Throughput of training", "images/s")
        _others(axes, others, "images_per_second", scale=1)
        _steps(axes, log, metrics.THROUGHPUT, colour=TRAIN, label="each log interval")
        axes.set_ylim(bottom=0)

    def data_wait(axes: Axes) -> None:
        _title(axes, "Waiting for data", "share of the time, %")
        _others(axes, others, "data_wait_share", scale=100)
        _steps(axes, log, metrics.DATA_WAIT, colour=TRAIN, label="each log interval", scale=100)
        axes.set_ylim(0, max(5.0, axes.get_ylim()[1]))

    panels = {
        "top1": ("Top-1 accuracy by epoch", top1),
        "loss": ("Loss by epoch", loss),
        "top5": ("Top-5 accuracy by epoch", top5),
        "learning-rate": ("Learning rate by epoch", lr),
        "throughput": ("Images per second by epoch", throughput),
        "data-wait": ("Share of the time that training waited for data, by epoch", data_wait),
    }
    return {name: (label, marked(panel)) for name, (label, panel) in panels.items()}


def course(runs: Sequence[tuple[str, Values, Values]], title: str, y: str, x: str) -> Panel:
    """One line a run: its name, and where it was when."""

    def draw(axes: Axes) -> None:
        _title(axes, title, y, x)
        for number, (name, at, values) in enumerate(runs):
            colour, dash = SERIES[number % len(SERIES)], DASHES[(number // len(SERIES)) % len(DASHES)]
            style: Any = {"marker": "o" if len(at) <= 30 else "", "markersize": 3, "linestyle": dash}
            axes.plot(at, values, color=colour, label=_short(name), **style)
        _legend(axes)

    return draw


def _title(axes: Axes, title: str, y: str, x: str = "epoch") -> None:
    axes.set_title(title)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if x == "epoch":
        axes.xaxis.get_major_locator().set_params(integer=True)  # type: ignore[call-arg]


def _pair(axes: Axes, log: Log, others: Sequence[Log], what: str, *, scale: float) -> None:
    """Training by step and epoch, validation by epoch, and that of others."""
    _others(axes, others, f"val_{what}", scale=scale)
    _steps(axes, log, f"train/{what}", colour=TRAIN, label="", scale=scale, faint=True)
    for column, colour, label in ((f"train_{what}", TRAIN, "training"), (f"val_{what}", VAL, "validation")):
        at, values = log.column(column)
        marker = "o" if len(at) <= 30 else ""
        axes.plot(at, scale * values, color=colour, marker=marker, markersize=3, label=label)
    _legend(axes)


def _others(axes: Axes, others: Sequence[Log], column: str, *, scale: float) -> None:
    for number, other in enumerate(others):
        at, values = other.column(column)
        name = _short(other.name)
        if not len(at) and column.startswith("val_"):  # as of a published log of training alone
            at, values = other.column(column.replace("val_", "train_"))
            name = f"{name}, training"
        if len(at):
            axes.plot(
                at,
                scale * values,
                color=OTHERS[number % 4],
                linestyle=DASHES[(number // 4 + 1) % 4],
                linewidth=1.2,
                marker="o" if len(at) == 1 else "",
                markersize=3,
                label=name,
                zorder=1.9,
            )


def _steps(
    axes: Axes, log: Log, key: str, *, colour: str, label: str, scale: float = 1, faint: bool = False
) -> None:
    at, values = _thinned(*log.steps.get(key, (np.zeros(0), np.zeros(0))))
    axes.plot(
        at,
        scale * values,
        color=colour,
        linewidth=0.8 if faint else 1.4,
        alpha=0.5 if faint else 1,
        label=label,
    )
    if not faint and len(axes.lines) > 1:
        _legend(axes)


def _thinned(at: Values, values: Values) -> tuple[Values, Values]:
    """Means of neighbours, where there are more points than are seen."""
    each = -(-len(at) // POINTS)
    if each <= 1:
        return at, values
    cuts = np.arange(0, len(at), each)
    counts = np.diff(np.append(cuts, len(at)))
    return np.add.reduceat(at, cuts) / counts, np.add.reduceat(values, cuts) / counts


def _legend(axes: Axes) -> None:
    shown = [line for line in axes.lines if not str(line.get_label()).startswith("_") and line.get_label()]
    if shown:
        shown.sort(key=lambda line: -line.get_zorder())  # this run before others
        axes.legend(handles=shown, loc="best", handlelength=1.6, labelspacing=0.3, borderaxespad=0.2)


def _short(name: str) -> str:
    # A dollar would be taken for mathematics, a line below for one that is not shown.
    name = name.replace("$", "").lstrip("_") or "another"
    return name if len(name) <= 28 else f"{name[:14]}…{name[-12:]}"


def calibration(bins: Sequence[Bin]) -> Panel:
    """The reliability diagram: accuracy over confidence, with the share of images in each bin."""

    def draw(axes: Axes) -> None:
        _title(axes, "How sure, how right", "right answers, %", "confidence of the answer, %")
        total = sum(one.images for one in bins)
        axes.bar(
            [50 * (one.low + one.high) for one in bins],
            [100 * one.images / total for one in bins],
            width=[100 * (one.high - one.low) * 0.9 for one in bins],
            color=LINE,
            label="share of the images",
        )
        axes.plot(
            [0, 100], [0, 100], color=MUTED, linewidth=1, linestyle=(0, (4, 3)), label="as sure as right"
        )
        axes.plot(
            [100 * one.confidence for one in bins],
            [100 * one.accuracy for one in bins],
            color=TRAIN,
            marker="o",
            markersize=4,
            label="measured",
        )
        axes.set_xlim(0, 100)
        axes.set_ylim(0, 102)
        axes.legend(loc="upper left", handlelength=1.6, labelspacing=0.3)

    return draw


def weak_slices(found: Sequence[Slice], overall: float) -> Panel:
    """Accuracy of each slice of one kind with its 95 % interval, and of all images."""

    def draw(axes: Axes) -> None:
        _title(axes, found[0].of[0].upper() + found[0].of[1:], "", "top-1, %, with 95 % interval")
        at = np.arange(len(found))
        top1 = np.array([100 * one.top1 for one in found])
        low, high = (np.array([100 * getattr(one, side) for one in found]) for side in ("low", "high"))
        axes.errorbar(
            top1,
            at,
            xerr=np.stack([top1 - low, high - top1]).clip(0),
            fmt="o",
            color=TRAIN,
            ecolor=MUTED,
            elinewidth=1.2,
            capsize=2.5,
            markersize=5,
        )
        axes.axvline(100 * overall, color=VAL, linewidth=1.2, linestyle=(0, (4, 3)))
        axes.set_yticks(at, [f"{one.name}\n{one.images:,} images" for one in found], fontsize=8.5)
        axes.set_ylim(len(found) - 0.5, -0.5)
        axes.grid(visible=False, axis="y")

    return draw
