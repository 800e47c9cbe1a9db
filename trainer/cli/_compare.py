"""`trainer compare`."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.cli import _args

if TYPE_CHECKING:
    from rich.table import Table

    from trainer.report import ComparedRun, Group

NAME, GROUP, ORDER = "compare", "look", 4
HELP = "compare runs at equal epochs, hours and dollars, and show what differs in their settings"
EXAMPLE = "trainer compare 'digits-*' --out compare.html"
SCHEDULES = "The runs have different schedules: one with fewer epochs is ahead on the way."
CURVE = 40  # columns of the longest run's


def add_arguments(parser: ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "given",
        metavar="RUN",
        nargs="+",
        help="a run folder, the name of one in --runs or of a run in MLflow, where * stands for anything (in quotes: "
        "'digits-*'), or the id of a run in MLflow",
    )
    parser.add_argument(
        "--out", type=Path, metavar="FILE", help="write it as one page, FILE.html, or its curves as FILE.svg"
    )
    parser.add_argument(
        "--price",
        type=_args.positive_float,
        metavar="USD",
        help="price of a machine per hour, in US dollars, for runs that were started without --price",
    )
    _args.add_runs(parser)
    _args.add_json(parser)


def run(options: Namespace) -> int:
    """Compare them, show it, and write the file."""
    from trainer.cli._terminal import configure_logging
    from trainer.run import check_page, compare_runs, write_comparison

    configure_logging()
    if options.out:
        check_page(options.out)
    groups = compare_runs(options.given, runs=options.runs, price=options.price)
    if options.out:
        write_comparison(groups, options.out)
    if options.json:
        from trainer.report import as_data

        print(json.dumps(as_data(groups)))
        return 0
    _show(groups)
    if options.out:
        print(f"\nwritten to {options.out}")
    return 0


def _show(groups: Sequence[Group]) -> None:
    from rich.console import Console
    from rich.text import Text

    from trainer.report import AXES, apart, extensions, settings_of

    # Tables are as wide as they are; a terminal that is narrower folds its lines itself.
    console = Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
    for group in groups:
        console.print()
        if sentence := apart(group, groups):
            console.print(Text(sentence, style="bold"))
        for one in group.runs:
            origin = f", learning rate found by {one.find_lr}" if one.find_lr else ""
            console.print(Text(f"{one.number:>2}  {one.name}: {one.device}, {one.status}{origin}"))
        if sentence := extensions(group):
            console.print(Text(f"{sentence}."))
        console.print()
        console.print(_runs(group.runs))
        for line in _curves(group.runs):
            console.print(Text(line))
        for axis, word in AXES.items():
            if group.equal(axis):
                console.print(Text(f"\ntop-1 at equal {word}, %", style="bold"))
                console.print(_equal(group, axis))
        if len(group.runs) == 1:
            continue
        if "epochs" in group.settings:
            console.print(Text(f"\n{SCHEDULES}"))
        console.print(
            Text("\nwhat differs in their settings, in brackets the runs that have it", style="bold")
        )
        for key, values in settings_of(group) or [("nothing", "")]:
            console.print(Text(f"  {key}  {values}".rstrip()))


def _runs(runs: Sequence[ComparedRun]) -> Table:
    from trainer.report import ema_of, number_of

    rows = [
        [
            str(one.number),
            number_of(100 * one.best_top1, ".2f"),
            str(one.best_epoch or ""),
            number_of(100 * one.final_top1, ".2f"),
            ema_of(one),
            str(one.epochs),
            number_of(one.images_per_second, ",.0f"),
            number_of(one.hours),
            number_of(one.usd),
        ]
        for one in runs
    ]
    return _table(
        ["run", "best top-1, %", "in epoch", "final", "EMA", "epochs", "images/s", "hours", "$"], rows
    )


def _equal(group: Group, axis: str) -> Table:
    from trainer.report import mark_of, number_of

    marks = group.equal(axis)
    rows = [
        [str(one.number), *(number_of(100 * top1[at], ".2f") for _, top1 in marks)]
        for at, one in enumerate(group.runs)
    ]
    return _table(["run", *(mark_of(axis, mark) for mark, _ in marks)], rows)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    return table


def _curves(runs: Sequence[ComparedRun]) -> Iterator[str]:
    """Top-1 of each run over its epochs, all on the same scale."""
    from trainer.cli._curves import drawn

    values = [run.course.top1.tolist() for run in runs]
    known = [value for some in values for value in some]
    most = max((run.epochs for run in runs), default=0)
    if len(known) < 2:
        return
    yield f"\ntop-1 by epoch, from {min(known):.1%} to {max(known):.1%}"
    for run, some in zip(runs, values, strict=True):
        columns = max(1, round(CURVE * run.epochs / most))
        yield f"{run.number:>2}  {drawn(some, columns, min(known), max(known))}"
