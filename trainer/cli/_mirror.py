"""`trainer mirror`."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import threading
from argparse import ArgumentParser, Namespace
from contextlib import suppress
from pathlib import Path

from trainer.cli import _args

NAME, GROUP, ORDER = "mirror", "look", 6
HELP = "bring the mirror of a run up to date, or fetch a run from it, as `trainer train` does by itself"
EXAMPLE = "trainer mirror runs/digits-1a2b3c4d5e --restore --runs-remote s3://my-bucket/runs"


def add_arguments(parser: ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "folder", metavar="RUN", type=Path, help="a run folder; with --restore it may be missing"
    )
    _args.add_runs_remote(parser, "where runs are mirrored")
    parser.add_argument(
        "--restore",
        action="store_true",
        help="fetch the run instead, if it is further there; also while another machine trains it",
    )
    # What `trainer train` tells its child.
    for name, kind in (
        ("--mirror-every", _args.positive_float),
        ("--checkpoint-interval", _args.positive_float),
        ("--epoch-steps", _args.positive_int),
    ):
        parser.add_argument(name, type=kind, default=1, help=argparse.SUPPRESS)
    parser.add_argument("--follow", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--unmirrored", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--begun", action="store_true", help=argparse.SUPPRESS)


def run(options: Namespace) -> int:
    """Bring the mirror up to date, or the run folder."""
    from trainer.errors import ConfigError
    from trainer.run import restore_run, upload_run

    if not options.runs_remote:
        raise ConfigError("there is no mirror: give --runs-remote URL, or set RUNS_REMOTE")
    if options.follow:
        return _follow(options)
    from trainer.cli._terminal import configure_logging

    configure_logging()
    work = restore_run if options.restore else upload_run
    print(work(options.folder, options.runs_remote))
    return 0


def _follow(options: Namespace) -> int:
    """Be the child of `trainer train`, which hears this one's standard output and speaks to its input."""
    from trainer.errors import first_line
    from trainer.mirror import Finish, Pace, follow
    from trainer.tracking import Parent

    finish = Finish()

    # Before anything else: it gives way to the trainer, and ignores a ^C or a SIGTERM that means that one.
    parent = Parent()

    def tell(kind: str, text: str) -> None:
        with suppress(OSError):  # nobody hears it any more
            os.write(1, json.dumps({"kind": kind, "text": text}).encode() + b"\n")

    class Told(logging.Handler):
        """What is logged here."""

        def emit(self, record: logging.LogRecord) -> None:
            tell("warning" if record.levelno >= logging.WARNING else "info", record.getMessage())

    logging.getLogger("trainer").addHandler(Told())
    logging.getLogger("trainer").setLevel(logging.INFO)

    def listen() -> None:
        for line in sys.stdin:
            finish.ask(float(line))

    threading.Thread(target=listen, name="hear-trainer", daemon=True).start()
    pace = Pace(options.mirror_every, options.checkpoint_interval, options.epoch_steps)
    try:
        return follow(
            options.folder,
            options.runs_remote,
            pace,
            unmirrored=options.unmirrored,
            begun=options.begun,
            parent=parent,
            finish=finish,
            tell=tell,
        )
    except Exception as error:
        tell("refused", f"the mirror's process failed, which is a defect of trainer: {first_line(error)}")
        raise
