"""`trainer check`."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.cli import _args
from trainer.errors import DataError

if TYPE_CHECKING:
    from trainer.dataset import Dataset, Finding, IgnoredCount, IgnoredCounts

NAME, GROUP, ORDER = "check", "data", 2
HELP = "check a data set against its manifest"
EXAMPLE = "trainer check /data/imagenet --decode --quarantine"

SHOWN = 20  # findings of a kind that are listed; --json has all
WHERE = ("within train", "within val", "of train in val")


def add_arguments(parser: ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("data", type=Path, metavar="DIR", help="folder of the data set")
    parser.add_argument("--decode", action="store_true", help="decode every image, on all cores")
    parser.add_argument(
        "--quarantine",
        action="store_true",
        help="move bad files to DIR/quarantine and write the manifest without them",
    )
    _args.add_json(parser)


def run(options: Namespace) -> int:
    """Check a data set, show the findings, and with --quarantine move bad files out."""
    from trainer.dataset import IgnoredCounts, open_dataset, quarantine

    dataset = open_dataset(options.data)
    ignored = IgnoredCounts()
    findings = _findings(dataset, ignored, decode=options.decode)
    bad = sum(finding.kind == "bad" for finding in findings)
    quarantined = bad > 0 and options.quarantine
    try:
        if quarantined:
            dataset = quarantine(dataset, findings)
    except DataError:
        _show(dataset, findings, ignored.result(), options, quarantined=False)  # they took long to find
        raise
    _show(dataset, findings, ignored.result(), options, quarantined)
    if bad and not quarantined:
        raise DataError(
            f"{bad:,} file(s) of {options.data} are bad; restore them, or move them out with: "
            f"trainer check {options.data}{' --decode' if options.decode else ''} --quarantine"
        )
    return 0


def _findings(dataset: Dataset, ignored: IgnoredCounts, *, decode: bool) -> list[Finding]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from trainer.cli._terminal import console
    from trainer.dataset import Finding, check_files, completeness

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        total = len(dataset.train) + len(dataset.val)
        bar = bars.add_task("checking files", total=total)
        findings = list(
            check_files(dataset, progress=lambda count: bars.update(bar, advance=count), ignored=ignored.add)
        )
        if against := completeness(dataset):
            findings += [
                Finding(one.path, "misplaced", f"belongs to {one.belongs} by its name")
                for one in against.misplaced
            ]
        if decode:
            from trainer.dataloader import check_decoding

            bad = {finding.path for finding in findings if finding.kind == "bad"}
            bar = bars.add_task("decoding", total=total)
            decoded = check_decoding(dataset, progress=lambda count: bars.update(bar, advance=count))
            findings += [finding for finding in decoded if finding.path not in bad]
    return findings


def _show(
    dataset: Dataset,
    findings: list[Finding],
    ignored: list[IgnoredCount],
    options: Namespace,
    quarantined: bool,
) -> None:
    from trainer.cli._terminal import console, show_table
    from trainer.dataset import completeness, counts_per_class, doubts, duplicates, several, shown

    warnings, against, same = doubts(dataset), completeness(dataset), duplicates(dataset)
    per_class = counts_per_class(dataset, against)
    kinds = Counter(finding.kind for finding in findings)
    if options.json:
        result = {
            "data": str(dataset.root),
            "name": dataset.name,
            "digest": dataset.digest,
            "counts": {"train": len(dataset.train), "val": len(dataset.val), "classes": len(dataset.classes)},
            "published": against.as_dict() if against else None,
            "per_class": per_class,
            "duplicates": {name: copies.number for name, copies in same._asdict().items()},
            "decoded": options.decode,
            "quarantined": quarantined,
            "findings": [finding._asdict() for finding in findings],
            "ignored": [one._asdict() for one in ignored],
            "warnings": warnings,
        }
        print(json.dumps(result))
        return
    for kind in ("bad", "misplaced", "warned", "handled", "unlisted"):
        some = [finding for finding in findings if finding.kind == kind]
        for finding in some[:SHOWN]:
            console.print(f"{kind}: {shown(finding.path)} {finding.reason}")
        if len(some) > SHOWN:
            console.print(f"{kind}: {len(some) - SHOWN:,} more; --json lists all")
    for one in ignored[:SHOWN]:
        console.print(f"ignored: {one}")
    trained = {class_id: counts["train"]["found"] or 0 for class_id, counts in per_class.items()}
    few, many = (pick(trained.items(), key=lambda item: item[1]) for pick in (min, max))
    images = f"{len(dataset.train):,} to train, {len(dataset.val):,} to validate"
    if against and against.whole and against.complete():
        images += ", as published"
    copies = [f"{found.number:,} {where}" for where, found in zip(WHERE, same, strict=True) if found.number]
    show_table(
        "bad files moved to quarantine/, manifest written again" if quarantined else "checked",
        {
            "data": f"{dataset.name} in {shown(str(dataset.root))}",
            "images": images,
            "classes": f"{len(dataset.classes):,}, from {few[1]:,} ({shown(few[0])}) to {many[1]:,} "
            f"({shown(many[0])}) training images: {several(dataset.classes, SHOWN)}",
            **({"duplicates": f"{', '.join(copies)}, byte for byte"} if against and copies else {}),
            **({"warning": "; ".join(warnings)} if warnings else {}),
            "files": f"{kinds['bad']:,} bad, {kinds['warned']:,} damaged but decodable, {kinds['handled']:,} unusual "
            f"but handled, {kinds['unlisted']:,} not in the manifest, {len(dataset.skipped):,} skipped, "
            f"{sum(one.files for one in ignored):,} ignored"
            + ("" if options.decode else "; contents not decoded (--decode)"),
        },
    )
