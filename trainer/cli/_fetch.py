"""`trainer fetch`."""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from pathlib import Path

from trainer.cli import _args

NAME, GROUP, ORDER = "fetch", "data", 3
HELP = "bring a prepared data set from S3 to this machine's disk; resumes likewise"
EXAMPLE = "trainer fetch s3://my-bucket/imagenet --out /mnt/nvme/imagenet"


def add_arguments(parser: ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "source",
        metavar="URL",
        help="folder that trainer prepare has written: s3://, https:// or another address that fsspec knows, or a path",
    )
    parser.add_argument(
        "--out", type=Path, required=True, metavar="DIR", help="folder of the data set, new or empty"
    )
    parser.add_argument(
        "--workers", type=_args.positive_int, metavar="N", help="number of processes (default: one a core)"
    )
    _args.add_json(parser)


def run(options: Namespace) -> int:
    """Fetch a data set and show the result."""
    from trainer.cli._terminal import byte_bars, show_table
    from trainer.dataset import fetch_dataset, shown

    out: Path = options.out
    with byte_bars() as bars:
        bar = bars.add_task("fetching", total=None)
        fetched = fetch_dataset(
            options.source,
            out,
            workers=options.workers,
            progress=lambda done, total: bars.update(bar, completed=done, total=total),
        )
    metadata, counts = fetched.metadata, fetched.metadata["counts"]
    if options.json:
        result = {key: metadata[key] for key in ("name", "counts", "digest")}
        result |= {"data": str(out), "made": fetched.made, "images": fetched.images, "bytes": fetched.bytes}
        print(json.dumps(result))
        return 0
    if not fetched.made:
        print(f"{metadata['name']}: already complete in {shown(str(out))}")
        return 0
    rows = {
        "data": f"{metadata['name']} in {shown(str(out))}",
        "images": f"{counts['train']:,} to train, {counts['val']:,} to validate",
        "fetched": f"{fetched.images:,} images, {fetched.bytes / 1e9:,.1f} GB; others were there",
        "digest": metadata["digest"],
    }
    show_table("fetched", rows)
    return 0
