"""Which range test a run has its learning rate from."""

from __future__ import annotations

import math
from dataclasses import dataclass

from trainer.errors import TrackingError
from trainer.run._plan import Plan
from trainer.tracking import (
    FIND_LR_NAME,
    FIND_LR_RUN,
    JOURNAL,
    RunHistory,
    read_journal,
    read_run_ref,
    redact,
    run_link,
    tracking_uri,
)

SAME = 0.006  # share by which the rate may differ: `find-lr` prints three digits of it
ALIKE = ("model", "global_batch", "optimizer.name")  # what a suggestion holds for, beside the recipe's name


@dataclass(frozen=True)
class LrOrigin:
    """The range test that a run has its learning rate from."""

    tags: dict[str, str]  # of the run; empty if there is no such test
    sentence: str = ""  # for its description, Markdown


def lr_origin(plan: Plan) -> LrOrigin:
    """The newest range test that suggested the run's learning rate, among the folders beside the run's.

    It must be of the same recipe, experiment, network, batch and optimizer.
    """
    runs = plan.folder.resolve().parent
    found: list[tuple[int, str]] = []
    for journal in runs.glob(f"*/{JOURNAL}"):
        try:
            history = read_journal(journal.parent)
        except (TrackingError, OSError):
            continue
        if _suggests(history, plan):
            found.append((history.started, journal.parent.name))
    if not found:
        return LrOrigin({})
    name = max(found)[1]
    ref = read_run_ref(runs / name)
    if ref is None or ref.tracking_uri != redact(tracking_uri(plan.folder.parent)):
        return LrOrigin({FIND_LR_NAME: name}, f"Its learning rate was found by `{name}`.")
    link = run_link(name, ref.experiment_id, ref.run_id)
    return LrOrigin({FIND_LR_NAME: name, FIND_LR_RUN: ref.run_id}, f"Its learning rate was found by {link}.")


def _suggests(history: RunHistory, plan: Plan) -> bool:
    recipe, tags, settings = plan.recipe, history.tags, plan.recipe.flat()
    if tags.get("kind") != "find-lr" or tags.get("recipe") != recipe.name:
        return False
    if history.experiment != recipe.experiment or any(
        history.params.get(key) != settings[key] for key in ALIKE
    ):
        return False
    suggested = (tags.get(f"find_lr.{name}", "nan") for name in ("steepest", "min_div_10"))
    return any(math.isclose(float(lr), recipe.peak_lr, rel_tol=SAME) for lr in suggested)
