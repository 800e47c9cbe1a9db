"""`trainer report`."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from trainer.cli import _args
from trainer.run import ReportOptions

NAME, GROUP, ORDER = "report", "look", 3
HELP = "show a run as one page: curves, confusion, mistakes with Grad-CAM; with its training log"
EXAMPLE = "trainer report runs/digits-1a2b3c4d5e --against published.csv"


def add_arguments(parser: ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("folder", metavar="RUN", type=Path, help="a run folder; the run may still go on")
    parser.add_argument("--out", type=Path, metavar="DIR", help="folder of the report (default: RUN/report)")
    parser.add_argument(
        "--against",
        type=Path,
        action="append",
        default=[],
        metavar="RUN|CSV",
        help="another run, or a published log with columns such as epoch, loss, top1, to draw beside it; may be "
        "repeated (other runs of the experiment are drawn anyway)",
    )
    parser.add_argument(
        "--per-class",
        type=_args.non_negative_int,
        default=ReportOptions.per_class,
        metavar="N",
        help="show N mistakes of each class on a page of their own (default: 0, no such page)",
    )
    parser.add_argument(
        "--data", type=Path, metavar="DIR", help="folder of the data set, if it is not where the run had it"
    )
    parser.add_argument(
        "--evaluate",
        action="store_true",
        help="measure the newest checkpoint now: for a run that still goes on, or ended before its last epoch",
    )
    _args.add_device(parser)
    _args.add_json(parser)


def run(options: Namespace) -> int:
    """Write the report and say where it is."""
    from trainer.cli._terminal import configure_logging, show_table
    from trainer.run import report_run
    from trainer.tracking import Parent

    configure_logging()
    Parent()  # a training that is about to end comes first
    report = report_run(_args.options_of(ReportOptions, options))
    if options.json:
        print(json.dumps({"report": str(report.page), "missing": list(report.missing)}))
        return 0
    rows = {"page": str(report.page), "log": f"{report.folder / 'log.md'}, log.csv, curves.png"}
    if report.missing:
        rows["lacks"] = "; ".join(report.missing)
    show_table("the report is written", rows)
    return 0
