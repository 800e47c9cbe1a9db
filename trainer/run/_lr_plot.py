"""The picture of a learning-rate range test."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from trainer.processes import import_matplotlib
from trainer.training import LrPoint, Suggestion

LOSS, STEEPEST, MIN_DIV_10 = "#3b6fb6", "#d1495b", "#2a9d6f"


def plot_lr(path: Path, points: Sequence[LrPoint], suggestion: Suggestion | None, *, title: str) -> None:
    """Write a PNG of the loss over the learning rate, with the suggested ones marked."""
    import_matplotlib()
    from matplotlib.figure import Figure  # takes a second, which other commands need not

    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    axes = figure.subplots()
    lrs = [point.lr for point in points]
    losses, smoothed = [point.loss for point in points], [point.smoothed for point in points]
    axes.plot(lrs, losses, color=LOSS, alpha=0.3, linewidth=1, label="loss of each step")
    axes.plot(lrs, smoothed, color=LOSS, linewidth=2.2, label="smoothed")
    if suggestion:
        for lr, name, colour in (
            (suggestion.steepest, "steepest descent", STEEPEST),
            (suggestion.min_div_10, "minimum / 10", MIN_DIV_10),
        ):
            height = np.interp(np.log(lr), np.log(lrs), smoothed)
            axes.axvline(lr, color=colour, linewidth=1, linestyle=(0, (4, 3)))
            axes.plot([lr], [height], "o", color=colour, markersize=8, label=f"{name}: {lr:.3g}")
    if points:
        # A diverged loss would press the rest flat.
        low, high = min(losses), 1.3 * max(smoothed[0], *losses[: max(1, len(losses) // 10)])
        axes.set_ylim(low - 0.05 * (high - low), high)
    axes.set_xscale("log")
    axes.set_xlabel("learning rate, at the recipe's global batch")
    axes.set_ylabel("training loss")
    axes.set_title(title)
    axes.grid(visible=True, alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower left", frameon=False)
    figure.savefig(path)
