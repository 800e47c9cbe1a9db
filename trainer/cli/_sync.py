"""`trainer sync`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from pathlib import Path

NAME, GROUP, ORDER = "sync", "look", 2
HELP = "bring MLflow up to date with a run's journal, and register its model and its bundle"
EXAMPLE = "trainer sync runs/digits-1a2b3c4d5e"


def add_arguments(parser: ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("folder", metavar="RUN", type=Path, help="a run folder")
    parser.add_argument("--follow", action="store_true", help="go on until the run ends")
    parser.add_argument(
        "--candidate",
        action="store_true",
        help="give its model the alias candidate, also if a better one has it",
    )


def run(options: Namespace) -> int:
    """Bring MLflow up to date, and register the model of a finished run."""
    from trainer.cli._terminal import configure_logging
    from trainer.tracking import BUNDLE, has_saved_model, log_bundle, read_journal, register, sync

    configure_logging()
    sync(options.folder, follow=options.follow)
    # The child of a trainer, which follows, leaves the model to it.
    finished = not options.follow and read_journal(options.folder).status == "finished"
    if finished and has_saved_model(options.folder):
        registered, bundle = register(options.folder, candidate=options.candidate), options.folder / BUNDLE
        print(f"the run is in MLflow, its model is {registered.uri}")
        if bundle.is_dir():
            log_bundle(registered, bundle, runs=options.folder.absolute().parent)
    return 0
