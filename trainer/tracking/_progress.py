"""How far a run has come, as a sentence in its description in MLflow; told from its journal."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from statistics import median

from trainer import metrics
from trainer.tracking._history import RunHistory
from trainer.tracking._server import redact

PRICE = "usd_per_hour"  # the tag with the price of all machines together, where it is known
MACHINES = "machines"  # the tag with their number
BEGUN = "parent_epochs"  # the tag with the epochs that the run has taken over from the one that it extends
WINDOW = 10  # newest epochs whose median duration counts
NOTE_LENGTH = 200  # characters of a warning


def progress(history: RunHistory) -> str:
    """Epoch, accuracy, throughput, expected end and price of a run; how it ended, and why, if it did not go well."""
    done = _measured(history)
    match history.status:
        case "failed" | "interrupted":
            why = f": {history.reason}" if history.reason else ""
            return f"{history.status}{why}" + (f"; {done}" if done else "")
        case "running":
            return done or "in its first epoch"
    return done


def ending(history: RunHistory) -> str | None:
    """How a run ended that did not go well, and why; None of any other."""
    if history.status not in ("failed", "interrupted"):
        return None
    return f"{history.status}: {history.reason}" if history.reason else history.status


def warnings(history: RunHistory) -> list[str]:
    """The newest warnings of a run, each on one line."""
    return [redact(" ".join(note.split()))[:NOTE_LENGTH] for note in history.notes]


def moment(ms: float) -> str:
    """Milliseconds since 1970 as text, to the minute."""
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _measured(history: RunHistory) -> str:
    top1 = {point.step: point for point in history.points if point.key == metrics.VAL_TOP1}
    epochs = {point.step: point.value for point in history.points if point.key == metrics.EPOCH}
    measured = [(epochs[step], point) for step, point in sorted(top1.items()) if step in epochs]
    if not measured:
        return ""
    (epoch, last), total = measured[-1], float(history.params.get("epochs", 0))
    best_epoch, best = max(measured, key=lambda one: one[1].value)
    said = [f"epoch {epoch:.0f} of {total:.0f}: top-1 {last.value:.2%}"]
    if best.step != last.step:
        said.append(f"best {best.value:.2%} after epoch {best_epoch:.0f}")
    speeds = [point.value for point in history.points[-2000:] if point.key == metrics.THROUGHPUT]
    if speeds:
        said.append(f"{median(speeds):,.0f} images/s")
    # An interruption between two epochs makes that one long, and their median no longer.
    begun = float(history.tags.get(BEGUN, 0))
    times = [(begun, history.started), *((number, point.time) for number, point in measured)]
    each = [
        (later[1] - earlier[1]) / (later[0] - earlier[0])
        for earlier, later in pairwise(times)
        if later[0] > earlier[0]
    ]
    left = (total - epoch) * median(each[-WINDOW:]) if each else 0.0
    going_on = history.status == "running" and left > 0
    if going_on:
        said.append(f"ends about {moment(last.time + left)}")
    price = _price(history)
    if price:
        spent = history.seconds / 3600 * price
        whole = f" of about ${spent + left / 3_600_000 * price:,.2f}" if going_on else ""
        said.append(f"${spent:,.2f}{whole}")
    return ", ".join(said)


def _price(history: RunHistory) -> float:
    try:
        return float(history.tags.get(PRICE, 0))
    except ValueError:
        return 0.0
