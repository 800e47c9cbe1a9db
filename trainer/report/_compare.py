"""Several runs beside each other: what they reached at equal epochs, hours and dollars, and which settings differ."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from trainer.config import differing_settings
from trainer.report import _charts, _drawing
from trainer.report._log import Log, Values, log_of
from trainer.report._page import NOTHING, render
from trainer.tracking import BEGUN, FIND_LR_NAME, FIND_LR_RUN, MACHINES, PRICE, RunHistory

AXES = {"epochs": "epochs", "hours": "hours", "usd": "dollars"}  # what a run has taken, and its word
MARKS = (0.25, 0.5, 0.75, 1.0)  # shares of the shortest run, at which all are compared


@dataclass(frozen=True, kw_only=True)
class Course:
    """Each evaluation of a run, and what had been spent by then."""

    epochs: Values
    hours: (
        Values  # of training and evaluation, without start-up and interruptions; nan where unknown, and of an
    )
    # extension, for it has not spent those of its first epochs
    usd: Values  # for that; nan where the price is unknown
    top1: Values  # share of the validation images in 0..1
    loss: Values  # nats

    def at(self, axis: str, mark: float) -> float:
        """Top-1 of the last evaluation for which no more was spent; nan if there is none."""
        spent = getattr(self, axis)
        there = np.flatnonzero(spent <= mark * (1 + 1e-9))
        return float(self.top1[there[-1]]) if len(there) else math.nan


@dataclass(frozen=True, kw_only=True)
class ComparedRun:
    """One of the runs that are compared."""

    number: int  # from 1 on, over all groups
    name: str
    status: str
    device: str
    ema_decay: float  # from the first epoch on; 0: the weights themselves were evaluated
    ema_phases: tuple[tuple[float, float], ...]  # shares of the run from which on it is another, and which
    epochs: int  # done
    parent_epochs: float  # of these, done by the run that it extends
    images_per_second: float  # of training, median of the epochs; nan if not measured
    best_top1: float  # share in 0..1; nan if nothing was measured, as all here
    best_epoch: int
    final_top1: float
    hours: float
    usd: float
    find_lr: str  # the range test whose learning rate it trains with; empty if none is known
    course: Course


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that were measured on the same validation images."""

    val_digest: str
    images: int  # in the validation set; 0 if unknown
    runs: tuple[ComparedRun, ...]
    settings: dict[str, tuple[Any, ...]]  # that are not the same in all: by dotted key, a value for each run

    def equal(self, axis: str) -> list[tuple[float, tuple[float, ...]]]:
        """What was spent, and each run's top-1 by then, up to the end of the shortest run.

        Args:
            axis: of AXES. Empty if it is not known of two runs.
        """
        ends = [float(spent[-1]) for spent in (getattr(run.course, axis) for run in self.runs) if len(spent)]
        known = [end for end in ends if math.isfinite(end) and end > 0]
        if len(known) < 2:
            return []
        marks = [min(known) * share for share in MARKS]
        if axis == "epochs":
            marks = sorted({float(max(1, round(mark))) for mark in marks})
        return [(mark, tuple(run.course.at(axis, mark) for run in self.runs)) for mark in marks]


def compare(histories: Sequence[tuple[str, RunHistory]], *, price: float | None = None) -> tuple[Group, ...]:
    """Compare runs, those of the same validation images with each other.

    Args:
        histories: name and history of each run.
        price: of a machine per hour in US dollars, for runs that were not told theirs.
    """
    by_digest: dict[str, list[tuple[int, str, RunHistory]]] = {}
    for number, (name, history) in enumerate(histories, start=1):
        by_digest.setdefault(_val_digest(history), []).append((number, name, history))
    groups = []
    for digest, some in by_digest.items():
        params = ({k: v for k, v in history.params.items() if "find_lr" not in k} for *_, history in some)
        dataset = some[0][2].dataset
        groups.append(
            Group(
                val_digest=digest,
                images=dataset.counts.get("val", 0) if dataset else 0,
                runs=tuple(_compared(number, name, history, price) for number, name, history in some),
                settings=differing_settings(*params),
            )
        )
    return tuple(groups)


def _val_digest(history: RunHistory) -> str:
    dataset = history.dataset
    return (dataset.val_digest or dataset.digest) if dataset else ""


def _compared(number: int, name: str, history: RunHistory, price: float | None) -> ComparedRun:
    log, tags = log_of(history, name=name), history.tags
    begun = float(tags.get(BEGUN, 0))
    machines = _number(tags.get(MACHINES)) or 1.0  # an earlier program did not say how many
    course = _course(log, begun, _number(tags.get(PRICE)) or machines * (price or math.nan))
    best = log.best()
    speeds = log.column("images_per_second")[1]
    world = tags.get("world_size", "1")
    spent = {axis: float(getattr(course, axis)[-1]) if len(course.top1) else math.nan for axis in AXES}
    return ComparedRun(
        number=number,
        name=name,
        status=history.status,
        device=(f"{world} x " if world != "1" else "") + tags.get("gpu", "unknown device"),
        ema_decay=float(history.params.get("ema_decay") or 0),
        ema_phases=_ema_phases(history.params),
        epochs=log.epochs[-1].epoch if log.epochs else 0,
        parent_epochs=begun,
        images_per_second=float(np.median(speeds)) if len(speeds) else math.nan,
        best_top1=best.val_top1 if best else math.nan,
        best_epoch=best.epoch if best else 0,
        final_top1=float(course.top1[-1]) if len(course.top1) else math.nan,
        hours=spent["hours"],
        usd=spent["usd"],
        find_lr=tags.get(FIND_LR_NAME) or tags.get(FIND_LR_RUN, ""),
        course=course,
    )


def _ema_phases(params: Mapping[str, Any]) -> tuple[tuple[float, float], ...]:
    phases = (phase for phase in params.get("phases") or () if isinstance(phase, Mapping))
    return tuple((float(phase["at"]), float(phase["ema_decay"])) for phase in phases if "ema_decay" in phase)


def _course(log: Log, begun: float, price: float) -> Course:
    hours = np.cumsum([math.nan if begun else row.seconds for row in log.epochs]) / 3600
    measured = np.array([math.isfinite(row.val_top1) for row in log.epochs], bool)
    columns = np.array([(row.epoch, row.val_top1, row.val_loss) for row in log.epochs]).reshape(-1, 3)
    epochs, top1, loss = columns[measured].T
    return Course(epochs=epochs, hours=hours[measured], usd=hours[measured] * price, top1=top1, loss=loss)


def _number(text: str | None) -> float:
    try:
        return max(0.0, float(text or 0))
    except ValueError:
        return 0.0


def as_data(groups: Sequence[Group]) -> list[dict[str, Any]]:
    """The comparison as plain data, `null` for what is not known."""
    return [
        {
            "val_digest": group.val_digest,
            "images": group.images,
            "runs": [_plain(asdict(run)) for run in group.runs],
            "settings": {key: list(values) for key, values in group.settings.items()},
            "equal": {
                axis: [{axis: mark, "top1": _plain(list(top1))} for mark, top1 in group.equal(axis)]
                for axis in AXES
            },
        }
        for group in groups
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, np.ndarray | list | tuple):
        return [_plain(one) for one in (value.tolist() if isinstance(value, np.ndarray) else value)]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def number_of(value: float, form: str = ".3g") -> str:
    """As it is shown."""
    return format(value, form) if math.isfinite(value) else NOTHING


def mark_of(axis: str, mark: float) -> str:
    """What was spent, in words."""
    if axis == "epochs":
        return f"epoch {mark:.0f}"
    if axis == "usd":
        return f"${mark:.2f}" if mark >= 1 else f"${mark:.2g}"
    return next(
        f"{mark * per_hour:.3g} {unit}"
        for unit, per_hour in (("h", 1), ("min", 60), ("s", 3600))
        if mark * per_hour >= 1 or unit == "s"
    )


def ema_of(run: ComparedRun) -> str:
    """The decay of the moving average in words, as in "0.999 from 0.5 on": from that share of the run."""
    said = [f"{run.ema_decay:g}" if run.ema_decay else "no"] if run.ema_decay or not run.ema_phases else []
    said += [f"{decay:g} from {at:g} on" if decay else f"no from {at:g} on" for at, decay in run.ema_phases]
    return ", ".join(said)


def apart(group: Group, groups: Sequence[Group]) -> str:
    """A sentence about runs that others cannot be compared with; empty if there are no others."""
    if len(groups) == 1:
        return ""
    those = ", ".join(str(run.number) for run in group.runs)
    return (
        f"Run {those}: validation images of their own ({group.val_digest[:12] or 'unknown'}), so not compared with "
        "the other runs"
    )


def extensions(group: Group) -> str:
    """A sentence about runs that go on from another one's end; empty if there are none."""
    those = [f"{run.number} ({run.parent_epochs:g})" for run in group.runs if run.parent_epochs]
    if not those:
        return ""
    return (
        f"Run {', '.join(those)}: in brackets the epochs of the run that it extends. It is not compared by hours and "
        "dollars, for it has spent none for those"
    )


def settings_of(group: Group) -> list[tuple[str, str]]:
    """Each setting that differs: its values, and behind each the numbers of the runs that have it."""
    rows = []
    for key, values in group.settings.items():
        having: dict[str, list[int]] = {}
        for run, value in zip(group.runs, values, strict=True):
            having.setdefault("null" if value is None else str(value), []).append(run.number)
        rows.append((key, ", ".join(f"{value} ({_and(numbers)})" for value, numbers in having.items())))
    return rows


def _and(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers))


def drawings(group: Group) -> list[tuple[str, _drawing.Panel]]:
    """What is drawn of a group: in words, and the drawing."""
    found = [("Top-1 by epoch", _course_panel(group, "epochs", "top1", "Top-1 at equal epochs", "epoch"))]
    for axis, word in (("hours", "hours"), ("usd", "US dollars")):
        if group.equal(axis):
            title = f"Top-1 at equal {AXES[axis]}"
            found.append((f"Top-1 by {word}", _course_panel(group, axis, "top1", title, word)))
    found.append(("Loss by epoch", _course_panel(group, "epochs", "loss", "Validation loss", "epoch")))
    return found


def _course_panel(group: Group, axis: str, what: str, title: str, x: str) -> _drawing.Panel:
    scale, y = (100, "accuracy, %") if what == "top1" else (1, "cross-entropy, nats")
    lines = []
    for run in group.runs:
        spent, values = getattr(run.course, axis), getattr(run.course, what)
        known = np.isfinite(spent) & np.isfinite(values)
        lines.append((f"{run.number}  {run.name}", spent[known], scale * values[known]))
    return _charts.course(lines, title, y, x)


def compare_page(groups: Sequence[Group]) -> str:
    """The comparison as one HTML file."""
    charts = [[_drawing.svg(panel, label=words) for words, panel in drawings(group)] for group in groups]
    return render(
        "compare.html",
        groups=[
            {
                "apart": apart(group, groups),
                "extensions": extensions(group),
                "images": group.images,
                "find_lr": any(run.find_lr for run in group.runs),
                "runs": [_row(run, group) for run in group.runs],
                "equal": [_table(group, axis) for axis in AXES if group.equal(axis)],
                "settings": settings_of(group),
                "charts": drawn,
            }
            for group, drawn in zip(groups, charts, strict=True)
        ],
        count=sum(len(group.runs) for group in groups),
    )


def compare_svg(groups: Sequence[Group]) -> str:
    """The curves as one SVG file; of several groups one below the other."""
    panels = [panel for group in groups for _, panel in drawings(group)]
    return _drawing.svg_file(_drawing.svg(*panels, label="Top-1 and loss of several runs"))


def _row(run: ComparedRun, group: Group) -> list[str]:
    return [
        str(run.number),
        run.name,
        number_of(100 * run.best_top1, ".2f") + (f" in epoch {run.best_epoch}" if run.best_epoch else ""),
        number_of(100 * run.final_top1, ".2f"),
        ema_of(run),
        str(run.epochs),
        number_of(run.images_per_second, ",.0f"),
        number_of(run.hours),
        number_of(run.usd),
        run.device,
        *([run.find_lr or NOTHING] if any(one.find_lr for one in group.runs) else []),
        run.status,
    ]


def _table(group: Group, axis: str) -> dict[str, Any]:
    marks = group.equal(axis)
    return {
        "axis": AXES[axis],
        "marks": [mark_of(axis, mark) for mark, _ in marks],
        "rows": [
            [f"{run.number}  {run.name}", *(number_of(100 * top1[at], ".2f") for _, top1 in marks)]
            for at, run in enumerate(group.runs)
        ],
    }
