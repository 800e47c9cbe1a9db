"""`trainer train`: what was asked for is checked first, and only then torch imported, which takes seconds."""

from __future__ import annotations

import argparse
import os

from trainer.cli._outcome import outcome_of, show
from trainer.cli._plan import make_plan


def run(options: argparse.Namespace) -> int:
    """Train, or show what came out if that is done; return the exit code."""
    plan = make_plan(options)
    if "RANK" not in os.environ and (outcome := outcome_of(plan.folder)):
        show(outcome, options, again=True)
        return 0
    from trainer.cli._run import start

    return start(plan, options)
