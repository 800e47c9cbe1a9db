"""How a chart is drawn: one style, SVG that follows the page's light or dark, PNG for where that is lost."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.processes import import_matplotlib

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

SIZE = (4.6, 3.0)  # inches of 72 px: what a telephone shows without making it much smaller
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
