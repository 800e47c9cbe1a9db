"""`trainer export`."""

from __future__ import annotations

import argparse
import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from trainer.cli import _args

NAME, GROUP, ORDER = "export", "ship", 3
HELP = "write the verified ONNX bundle of a model for a Jetson"
EXAMPLE = "trainer export rn50-75"


def add_arguments(parser: ArgumentParser) -> None:
    """The command's arguments."""
    for add in (_args.add_runs, _args.add_trust, _args.add_device, _args.add_json):
        add(parser)
    _args.add_model(parser)
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="a new or empty folder (default: export/NAME-VERSION)"
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="folder of the data set, if it is not where the run had it"
    )
    parser.add_argument(
        "--parity",
        type=_number_of_images,
        metavar="all|N|none",
        help="validation images to measure each variant on; with none there is no INT8 (default: all)",
    )
    parser.add_argument(
        "--format",
        action="append",
        default=[],
        choices=("torchscript", "pt2"),
        help="write this form too; may be repeated",
    )
    parser.add_argument(
        "--log", action="store_true", help="send the bundle to MLflow, to the registered version"
    )


def run(options: Namespace) -> int:
    """Write the bundle and say how well it agrees with the model."""
    from trainer.export import check_out, is_bundle

    if options.out and not is_bundle(options.out):
        check_out(options.out)  # before torch is imported
    from trainer.cli._terminal import configure_logging
    from trainer.run import export_model
    from trainer.tracking import Parent

    configure_logging()
    Parent()  # a training that is about to end comes first
    bundle = export_model(
        options.model,
        options.out,
        runs=options.runs,
        trust=options.trust,
        data=options.data,
        parity=options.parity,
        formats=options.format,
        device=options.device,
        log=options.log,
    )
    if options.json:
        told = {
            "bundle": str(bundle.folder),
            "max_difference": bundle.max_difference,
            "left_out": bundle.left_out,
        }
        print(json.dumps(told))
        return 0
    if bundle.max_difference is None:
        print(f"{bundle.folder} holds the bundle of {bundle.source} already, and its checksums hold")
    else:
        print(
            f"{bundle.source}: bundle written to {bundle.folder}; ONNX Runtime and PyTorch agree within "
            f"{bundle.max_difference:.1e} in probability"
        )
    for sentence in bundle.left_out:
        print(sentence)
    if options.log:
        print(f"{bundle.source} has it in MLflow")
    return 0


def _number_of_images(text: str) -> int | None:
    """None for `all`, 0 for `none`."""
    if text in ("all", "none"):
        return None if text == "all" else 0
    try:
        return _args.positive_int(text)
    except (argparse.ArgumentTypeError, ValueError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither all, none nor a number of images above 0"
        ) from None
