"""`trainer evaluate`."""

from __future__ import annotations

import dataclasses
import json
from argparse import ArgumentParser, Namespace
from typing import TYPE_CHECKING

from trainer.cli import _args
from trainer.run import EvaluateOptions

if TYPE_CHECKING:
    from trainer.run import EvaluationResult

NAME, GROUP, ORDER = "evaluate", "look", 1
HELP = "measure a model on the validation images"
EXAMPLE = "trainer evaluate models:/resnet50-imagenet@candidate --data /data/imagenet"


def add_arguments(parser: ArgumentParser) -> None:
    """The command's arguments."""
    for add in (
        _args.add_data,
        _args.add_runs,
        _args.add_device,
        _args.add_nproc,
        _args.add_partial,
        _args.add_trust,
        _args.add_json,
    ):
        add(parser)
    _args.add_model(parser, bundle=True)
    parser.add_argument(
        "--batch-size",
        type=_args.positive_int,
        default=EvaluateOptions.batch_size,
        metavar="N",
        help="images at a time in each process (default: 64)",
    )
    parser.add_argument(
        "--per-class", action="store_true", help="show each class as well, from the worst to the best"
    )
    parser.add_argument(
        "--tta",
        action="store_true",
        help="test-time augmentation: average the logits of each image and of its mirror image",
    )
    parser.add_argument(
        "--record",
        action="store_true",
        help="note the top-1 at the registered version, so that `trainer promote` can compare it with versions that "
        "were measured on these images",
    )


def run(options: Namespace) -> int:
    """Measure the model and print the result."""
    given = _args.options_of(EvaluateOptions, options)
    from trainer.cli._terminal import configure_logging
    from trainer.dataset import open_dataset, require_complete

    # What is wrong is said before torch is imported.
    require_complete(open_dataset(given.data), partial=given.partial, splits=("val",))
    from trainer.run import evaluate_model, for_record, record

    configure_logging()
    if options.record:
        given = for_record(given)  # before minutes of measuring
    result = evaluate_model(given)
    if result is None:
        return 0
    if options.record:
        record(given, result.top1)
    if options.json:
        facts = dataclasses.asdict(result)
        if not options.per_class:
            del facts["classes"]
        print(json.dumps(facts))
    else:
        _show(result)
    return 0


def _show(result: EvaluationResult) -> None:
    from trainer.cli._terminal import show_table

    how = ", averaged over each image and its mirror" if result.tta else ""
    show_table(
        result.model,
        {
            "top-1": f"{result.top1:.2%} of {result.num_images:,} validation images{how}",
            "top-5": f"{result.top5:.2%}",
            "loss": f"{result.loss:.4f}",
        },
    )
    if result.classes:
        show_table(
            "each class, from the worst to the best",
            {
                " ".join(dict.fromkeys((one.wnid, one.name))): f"{_percent(one.top1)}  {_percent(one.top5)}  "
                f"{one.num_images:>6,} images"
                for one in result.classes
            },
        )


def _percent(share: float | None) -> str:
    return f"{share:8.2%}" if share is not None else f"{'-':>8}"
