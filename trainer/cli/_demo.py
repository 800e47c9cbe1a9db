"""`trainer demo`."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace

from trainer.cli import _args

NAME, GROUP, ORDER = "demo", "look", 5
HELP = "show a model in a browser: a picture in, its classes and where they were found out"
EXAMPLE = "trainer demo export/resnet50-digits-1"


def add_arguments(parser: ArgumentParser) -> None:
    """The command's arguments."""
    for add in (_args.add_runs, _args.add_trust):
        add(parser)
    _args.add_model(parser, bundle=True)
    parser.add_argument(
        "--port",
        type=_args.positive_int,
        default=7860,
        metavar="N",
        help="port of 127.0.0.1 to answer at (default: 7860)",
    )


def run(options: Namespace) -> int:
    """Show the model until Ctrl-C."""
    from trainer.cli._terminal import configure_logging
    from trainer.run import show_demo

    configure_logging()
    show_demo(options.model, port=options.port, runs=options.runs, trust=options.trust)
    return 0
