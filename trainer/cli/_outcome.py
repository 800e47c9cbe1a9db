"""What came out of a run: a file in its folder, and the table at its end."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from trainer.cli._terminal import console, show_table
from trainer.files import write_json

RESULT = "result.json"


def keep(folder: Path, outcome: dict[str, Any]) -> None:
    """Note in the run's folder that it is finished, and how."""
    write_json(folder / RESULT, outcome)


def outcome_of(folder: Path) -> dict[str, Any] | None:
    """What came out of the run in `folder`; None if it is not finished."""
    file = folder / RESULT
    return dict(json.loads(file.read_text())) if file.exists() else None


def show(outcome: dict[str, Any], options: argparse.Namespace, *, again: bool) -> None:
    """Print what came out of a run."""
    if options.json:
        print(json.dumps({**outcome, "again": again}))
        return
    title = "this run is finished already; nothing was trained" if again else "finished"
    show_table(
        title,
        {
            "top-1": f"{outcome['top1']:.2%} of {outcome['images']:,} validation images",
            "top-5": f"{outcome['top5']:.2%}",
            "images/s": f"{outcome['images_per_second']:,.0f} on {outcome['device']}",
            **_time_and_money(outcome),
            "run": outcome["run"],
            "model": f"{outcome['model']} (version {outcome['version']})",
        },
    )
    if again:
        console.print("to train again from the start, give the new run a name with --name")


def _time_and_money(outcome: dict[str, Any]) -> dict[str, str]:
    if "hours" not in outcome:  # it was trained by a trainer that did not note them
        return {}
    money = f", ${outcome['usd']:,.2f}" if "usd" in outcome else ""
    return {"time": f"{outcome['hours']:,.2f} hours{money}"}
