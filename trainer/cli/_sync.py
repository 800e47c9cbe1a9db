"""`trainer sync`."""

from __future__ import annotations

import logging
import shlex
from argparse import ArgumentParser, Namespace
from pathlib import Path

NAME, GROUP, ORDER = "sync", "look", 2
HELP = "bring MLflow up to date with a run's journal, and register its model and its bundle"
EXAMPLE = "trainer sync runs/digits-1a2b3c4d5e"

logger = logging.getLogger(__name__)


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
    from trainer.tracking import (
        BUNDLE,
        has_saved_model,
        is_bundle_of,
        log_bundle,
        promote_if_asked,
        read_journal,
        register,
        sync,
    )

    configure_logging()
    sync(options.folder, follow=options.follow)
    # The child of a trainer, which follows, leaves the model to it.
    finished = not options.follow and read_journal(options.folder).status == "finished"
    if finished and has_saved_model(options.folder):
        registered, bundle = register(options.folder, candidate=options.candidate), options.folder / BUNDLE
        runs = options.folder.absolute().parent
        print(f"the run is in MLflow, its model is {registered.uri}")
        if is_bundle_of(registered, bundle):
            log_bundle(registered, bundle, runs=runs)
        elif bundle.is_dir():
            again = shlex.join(["export", registered.uri, "--runs", str(runs), "--log"])
            logger.warning(
                "%s is of another version, as of another server's: it is not sent; if %s has none yet, make it with: "
                "trainer %s",
                bundle,
                registered.uri,
                again,
            )
        promote_if_asked(options.folder, registered)
    return 0
