"""The charts: one style, drawn by matplotlib; SVG that follows the page's light or dark, PNG for where that is lost."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from trainer import metrics
from trainer.processes import import_matplotlib
from trainer.report._log import Log, Values
from trainer.report._metrics import Bin, Slice

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# What is drawn, by the name of the page's colour: light, and dark. The series are Okabe and Ito's, which
# the colour-blind tell apart (jfly.uni-koeln.de/color), some lighter on dark.
COLOURS = {
    "ink": ("#1c2127", "#e8eaed"),
    "muted": ("#5d6670", "#a3abb5"),
    "line": ("#d5dae0", "#3a414a"),
    "c1": ("#0072b2", "#56b4e9"),
    "c2": ("#d55e00", "#f0883e"),
    "c3": ("#009e73", "#2fc79b"),
    "c4": ("#aa4a82", "#dd92bd"),
    "c5": ("#8a6d00", "#e3c04d"),
    "c6": ("#4b5fa8", "#94a5ee"),
}
INK, MUTED, LINE, TRAIN, VAL = (COLOURS[name][0] for name in ("ink", "muted", "line", "c1", "c2"))
OTHERS = tuple(COLOURS[name][0] for name in ("c3", "c4", "c5", "c6"))
SERIES = TRAIN, VAL, *OTHERS  # of several runs
DASHES: tuple[Any, ...] = ("-", (0, (5, 2)), (0, (2, 1.5)), (0, (5, 1.5, 1, 1.5)))

SIZE = (4.6, 3.0)  # inches of 72 px: what a telephone shows without making it much smaller
POINTS = 600  # of a line; more are not seen
STYLE: Any = {
    "font.family": "sans-serif",
    "font.size": 9.5,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "text.color": INK,
    "axes.grid": True,
    "grid.color": LINE,
    "grid.linewidth": 0.7,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "legend.labelcolor": INK,
    "lines.linewidth": 1.7,
    "svg.fonttype": "none",
    "svg.hashsalt": "trainer",  # the same run, the same bytes
    "path.simplify_threshold": 0.5,
}

Panel = Callable[["Axes"], None]


def dark_and_light() -> str:
    """The colours as CSS variables, for the page and for each SVG file."""
    light, dark = (";".join(f"--{name}:{both[at]}" for name, both in COLOURS.items()) for at in range(2))
    return f":root{{{light}}}@media screen and (prefers-color-scheme:dark){{:root{{{dark}}}}}"


def svg(*panels: Panel, label: str, size: tuple[float, float] = SIZE) -> str:
    """One chart as SVG, to stand in the page; or several, two in a row.

    Args:
        panels: draw them.
        label: what they show, for those who do not see it.
        size: width and height of each in inches.
    """
    columns = min(2, len(panels))
    with _drawn(panels, columns, size) as figure:
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    drawn = text.getvalue()
    drawn = drawn[drawn.index("<svg") :]
    drawn = re.sub(r"<metadata>.*?</metadata>", "", drawn, flags=re.DOTALL)
    drawn = re.sub(r'(<svg [^>]*?) width="[^"]*" height="[^"]*"', r"\1", drawn, count=1)
    for name, (colour, _) in COLOURS.items():
        drawn = drawn.replace(colour, f"var(--{name})")
    # The page's own font; drawn with another one, which is a little wider.
    drawn = re.sub(r"(font: [^;\"]*px) [^;\"]*", r"\1 system-ui, sans-serif", drawn)
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{_attribute(label)}" ', 1)


def svg_file(drawn: str) -> str:
    """The same as a file of its own, which brings its colours along."""
    at = drawn.index(">") + 1
    background = "svg{background:#fff}@media (prefers-color-scheme:dark){svg{background:#16191d}}"
    return f"{drawn[:at]}<style>{dark_and_light()}{background}</style>{drawn[at:]}\n"


def png(path: Path, panels: Sequence[Panel], *, columns: int = 2, dpi: int = 144) -> None:
    """Several charts as one picture."""
    with _drawn(panels, columns, SIZE) as figure:
        figure.savefig(path, format="png", dpi=dpi, facecolor="white", metadata={"Software": None})


@contextmanager
def _drawn(panels: Sequence[Panel], columns: int, size: tuple[float, float]) -> Iterator[Figure]:
    import_matplotlib()
    import matplotlib as mpl
    from matplotlib.figure import Figure

    rows = -(-len(panels) // columns)
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(size[0] * columns, size[1] * rows), layout="constrained")
        axes = list(figure.subplots(rows, columns, squeeze=False).flat)
        for panel, one in zip(panels, axes, strict=False):
            panel(one)
        for one in axes[len(panels) :]:
            one.set_axis_off()
        yield figure


def _attribute(text: str) -> str:
    for sign, safe in (("&", "&amp;"), ("<", "&lt;"), ('"', "&quot;")):
        text = text.replace(sign, safe)
    return text


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
