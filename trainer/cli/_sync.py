"""`trainer sync`: MLflow as a run's journal has it."""

from __future__ import annotations

import argparse

from trainer.tracking import has_saved_model, read_journal, register, sync


def run(options: argparse.Namespace) -> int:
    """Bring MLflow up to date, and register the model of a finished run."""
    sync(options.folder, follow=options.follow)
    # A shipper, which follows, leaves the model to its trainer.
    finished = not options.follow and read_journal(options.folder).status == "finished"
    if finished and has_saved_model(options.folder):
        print(f"the run is in MLflow, its model is {register(options.folder).uri}")
    return 0
