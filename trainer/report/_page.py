"""The pages: what the templates get, and the files that they become. All text is escaped by Jinja2."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from trainer.export import HEADINGS as VARIANT_HEADINGS
from trainer.export import Variants
from trainer.report import _drawing
from trainer.report._facts import Run
from trainer.report._log import HEADINGS, Log, log_table
from trainer.report._metrics import Pair, PerClass, Slice
from trainer.report._pictures import Pictures

NOTHING = "\N{EN DASH}"  # in a cell
TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Card:
    """One validation image in a gallery."""

    file: str
    truth: str
    maybe: str  # the class that its label may have been meant for
    answers: Sequence[tuple[str, float, bool]]  # class, probability, and whether it is the label
    of_truth: float  # probability of the label
    pictures: Pictures | None


@dataclass
class Page:
    """Everything that stands in the pages of one run."""

    run: Run
    log: Log
    others: Sequence[Log]
    facts: Sequence[tuple[str, str]]
    command: str
    missing: list[str]
    curves: list[str] = field(default_factory=list)  # SVG
    num_images: int = 0  # of the validation set, answered
    top1: float = math.nan  # share in 0..1
    pairs: list[Pair] = field(default_factory=list)
    num_pairs: int = 0
    matrix: list[list[int]] = field(default_factory=list)
    per_class: PerClass | None = None
    calibration: str = ""  # SVG
    calibration_error: float = math.nan
    confidence: float = math.nan  # mean probability of the answers
    slices: list[Slice] = field(default_factory=list)
    slice_charts: list[str] = field(default_factory=list)  # SVG
    wrong: list[Card] = field(default_factory=list)
    num_wrong: int = 0
    unsure: list[Card] = field(default_factory=list)
    suspects: list[Card] = field(default_factory=list)
    num_suspects: int = 0
    by_class: list[tuple[str, int, list[Card]]] = field(default_factory=list)  # class, mistakes, some of them
    bundle: Variants | None = None  # what was exported
    places: str = ""  # of the Grad-CAM maps, as in "7 x 7"

    def tiles(self) -> list[tuple[str, str]]:
        """The numbers that are read first."""
        best, last = self.log.best(), self.log.epochs[-1] if self.log.epochs else None
        bar, reached = self.run.recipe.bar, best.val_top1 if best else math.nan
        rows = []
        if self.num_images:
            rows.append(("top-1", f"{self.top1:.2%}"))
            reached = self.top1
        elif best:
            rows.append(("best top-1", f"{best.val_top1:.2%}"))
        if bar:
            done = (
                ""
                if math.isnan(reached)
                else " ✓"
                if reached >= bar
                else " not yet"
                if not self.run.finished
                else " missed"
            )
            rows.append(("to reach", f"{bar:.1%}{done}"))
        if last:
            rows.append(("epochs", f"{last.epoch} of {self.run.recipe.epochs}"))
        if best:
            rows.append(("best epoch", f"{best.epoch}, {best.val_top1:.2%}"))
        if self.num_images:
            rows += [
                ("wrong", f"{self.num_wrong:,} of {self.num_images:,}"),
                ("calibration error", f"{self.calibration_error:.1%}"),
            ]
        return rows

    def compared(self) -> list[list[str]]:
        """This run and those beside it: name, epochs, best and last top-1, last loss on the validation images."""
        rows = []
        for log in (self.log, *self.others):
            best, (_, top1), (_, loss) = log.best(), log.column("val_top1"), log.column("val_loss")
            rows.append(
                [
                    log.name,
                    str(log.epochs[-1].epoch) if log.epochs else "0",
                    f"{100 * best.val_top1:.2f} in {best.epoch}" if best else NOTHING,
                    f"{100 * top1[-1]:.2f}" if len(top1) else NOTHING,
                    f"{loss[-1]:.4f}" if len(loss) else NOTHING,
                ]
            )
        return rows

    def class_rows(self) -> list[list[str]]:
        """Name, F1, precision, recall, top-5 in percent, and support of each class, from the worst to the best."""
        if self.per_class is None:
            return []
        one = self.per_class
        shares = (one.f1, one.precision, one.recall, one.top5)
        columns = [
            [f"{100 * value:.1f}" if value == value else NOTHING for value in share.tolist()]
            for share in shares
        ]
        support = [f"{count}" for count in one.support.tolist()]
        rows = [list(row) for row in zip(self.run.classes, *columns, support, strict=True)]
        return [rows[at] for at in np.argsort(one.f1, kind="stable")]  # the worst first, nan last


def write_pages(page: Page, out: Path) -> None:
    """Write `report.html`, and the pages beside it that have something to show."""
    names = ["report.html"]
    names += ["label_errors.html"] if page.suspects else []
    names += ["mistakes_by_class.html"] if page.by_class else []
    for name in names:
        text = render(
            name,
            page=page,
            run=page.run,
            headings=list(HEADINGS.values()),
            log_rows=log_table(page.log),
            variant_headings=VARIANT_HEADINGS,
        )
        (out / name).write_text(text, encoding="utf-8", errors="backslashreplace")


def render(template: str, **shown: object) -> str:
    """A page of its own: no other file is needed to see it, and nothing is asked of any network."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    script = (TEMPLATES / "script.js").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["of"] = lambda count, word: f"{count:,} {word}" + ("" if count == 1 else "s")
    environment.filters["percent"] = lambda value: f"{100 * value:.1f} %"
    # No script but this one runs, whatever a class is called.
    policy = (
        f"default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'sha256-{digest}'; "
        "base-uri 'none'; form-action 'none'"
    )
    style = _drawing.dark_and_light() + (TEMPLATES / "style.css").read_text("utf-8")
    return environment.get_template(template).render(shown, policy=policy, script=script, style=style)
