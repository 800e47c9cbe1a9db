"""`trainer check`: is the data set what its manifest says, and does it decode?"""

from __future__ import annotations

import argparse
import json
from collections import Counter

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from trainer.cli._terminal import console, show_table
from trainer.dataset import Dataset, Finding, check_files, counts_per_class, open_dataset, quarantine
from trainer.errors import DataError

SHOWN = 20  # findings of a kind; --json has all


def run(options: argparse.Namespace) -> int:
    """Check, show, and with --quarantine mend."""
    dataset = open_dataset(options.data)
    findings = _findings(dataset, options)
    bad = sum(finding.kind == "bad" for finding in findings)
    mended = bad > 0 and options.quarantine
    if mended:
        dataset = quarantine(dataset, findings)
    _show(dataset, findings, options, mended)
    if bad and not mended:
        raise DataError(
            f"{bad:,} file(s) of {options.data} are bad; restore them, or move them out with: "
            f"trainer check {options.data}{' --decode' if options.decode else ''} --quarantine"
        )
    return 0


def _findings(dataset: Dataset, options: argparse.Namespace) -> list[Finding]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        total = len(dataset.train) + len(dataset.val)
        bar = bars.add_task("looking at files", total=total)
        findings = list(check_files(dataset, progress=lambda count: bars.update(bar, advance=count)))
        if options.decode:
            from trainer.dataloader import check_decoding

            missing = {finding.path for finding in findings if finding.kind == "bad"}
            bar = bars.add_task("decoding", total=total)
            decoded = check_decoding(dataset, progress=lambda count: bars.update(bar, advance=count))
            findings += [finding for finding in decoded if finding.path not in missing]
    return findings


def _show(dataset: Dataset, findings: list[Finding], options: argparse.Namespace, mended: bool) -> None:
    kinds = Counter(finding.kind for finding in findings)
    if options.json:
        facts = {
            "data": str(dataset.root),
            "name": dataset.name,
            "digest": dataset.digest,
            "counts": {"train": len(dataset.train), "val": len(dataset.val), "classes": len(dataset.classes)},
            "decoded": options.decode,
            "quarantined": mended,
            "findings": [finding._asdict() for finding in findings],
        }
        print(json.dumps(facts))
        return
    for kind in ("bad", "warned", "handled", "unlisted"):
        some = [finding for finding in findings if finding.kind == kind]
        for finding in some[:SHOWN]:
            console.print(f"{kind}: {finding.path} {finding.reason}")
        if len(some) > SHOWN:
            console.print(f"{kind}: {len(some) - SHOWN:,} more; --json names them all")
    per_class = counts_per_class(dataset)
    few, many = (pick(per_class.items(), key=lambda item: item[1][0]) for pick in (min, max))
    images = f"{len(dataset.train):,} to train, {len(dataset.val):,} to validate"
    if published := dataset.about.get("published"):
        same = published == [len(dataset.train), len(dataset.val)]
        images += ", as published" if same else f"; published are {published[0]:,} and {published[1]:,}"
    show_table(
        "moved to quarantine/, manifest written anew" if mended else "checked",
        {
            "data": f"{dataset.name} in {dataset.root}",
            "images": images,
            "classes": f"{len(dataset.classes):,}, from {few[1][0]:,} ({few[0]}) to {many[1][0]:,} ({many[0]}) "
            "training images",
            "files": f"{kinds['bad']:,} bad, {kinds['warned']:,} damaged but decodable, {kinds['handled']:,} unusual "
            f"but handled, {kinds['unlisted']:,} not in the manifest, {len(dataset.left_out):,} left out"
            + ("" if options.decode else "; contents not decoded (--decode)"),
        },
    )
