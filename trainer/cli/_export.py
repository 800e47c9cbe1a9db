"""`trainer export`."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from trainer.cli import _args

NAME, GROUP, ORDER = "export", "ship", 3
HELP = "write the verified ONNX bundle of a model for a Jetson"
EXAMPLE = "trainer export rn50-75"


def add_arguments(parser: ArgumentParser) -> None:
    """The command's arguments."""
    for add in (_args.add_runs, _args.add_trust, _args.add_json):
        add(parser)
    _args.add_model(parser)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="a new or empty folder (default: export/NAME-VERSION)"
    )


def run(options: Namespace) -> int:
    """Write the bundle and say how well it agrees with the model."""
    from trainer.export import check_out

    if options.out:
        check_out(options.out)  # before torch is imported
    from trainer.cli._terminal import configure_logging
    from trainer.run import export_model

    configure_logging()
    bundle = export_model(options.model, options.out, runs=options.runs, trust=options.trust)
    if options.json:
        print(json.dumps({"bundle": str(bundle.folder), "max_difference": bundle.max_difference}))
    elif bundle.max_difference is None:
        print(f"{bundle.folder} holds the bundle of {bundle.source} already, and its checksums hold")
    else:
        print(
            f"{bundle.source}: bundle written to {bundle.folder}; ONNX Runtime and PyTorch agree within "
            f"{bundle.max_difference:.1e} in probability"
        )
    return 0
