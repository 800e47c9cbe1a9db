"""`trainer prepare`: get the archives, then write the data set."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path

from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from trainer.cli._terminal import console, show_table
from trainer.dataset import (
    FASTAI,
    TINY_IMAGENET_ZIP,
    Prepared,
    Resize,
    Source,
    check_new,
    digits,
    fastai,
    fetch,
    find_complete,
    folder,
    imagenet,
    kaggle,
    prepare,
    tiny_imagenet,
)
from trainer.errors import ConfigError

SHOWN = 10  # files that were left out


def run(options: argparse.Namespace) -> int:
    """Prepare the data set that `options` name and show what came out."""
    out = options.out or options.folder
    side = getattr(options, "shorter_side", None)
    if side and options.form == "folder" and options.out is None:
        raise ConfigError(
            "--shorter-side would change your own images; say with --out where the smaller ones go"
        )
    reduction = Resize(side, options.quality) if side else None
    if (made := _made_before(options, out, reduction)) is not None:
        _show(made, out, options)
        return 0
    with _bars() as bars:
        source = _source(options, out, bars)
        bar = bars.add_task("preparing", total=source.bytes or None)
        made = prepare(
            source,
            out,
            reduction=reduction,
            workers=options.workers,
            progress=lambda size: bars.update(bar, advance=size),
        )
    _show(made, out, options)
    return 0


def _made_before(options: argparse.Namespace, out: Path, reduction: Resize | None) -> Prepared | None:
    """The data set if it is complete already: then its archives are neither needed nor downloaded again."""
    if options.form in ("digits", "folder"):
        return None
    name = "imagenet" if options.form == "kaggle" else options.form
    size = {} if getattr(options, "size", "full") == "full" else {"size": options.size}
    about = find_complete(out, name, {**size, **(asdict(reduction) if reduction else {})})
    return None if about is None else Prepared(about, made=False, resumed=0)


def _source(options: argparse.Namespace, out: Path, bars: Progress) -> Source:
    """The source that the command line names; archives are downloaded first."""
    verify = not getattr(options, "no_md5", False)

    def get(archive: str, *finds: str) -> Path:
        if (downloads := options.downloads) is None:
            check_new(out)  # nothing is downloaded into a folder that will be refused
            downloads = out / ".preparing" / "downloads"
        bar = bars.add_task(f"getting {archive.rsplit('/', 1)[-1][:40]}", total=None, visible=False)
        return fetch(
            archive,
            downloads,
            finds=finds,
            progress=lambda here, total: bars.update(bar, completed=here, total=total or None, visible=True),
        )

    match options.form:
        case "digits":
            return digits()
        case "folder":
            return folder(
                options.folder,
                out=out,
                val_fraction=options.val_fraction,
                seed=options.seed,
                name=options.name,
            )
        case "imagenet":
            archives = [get(archive, "_img_train.tar", "_img_val.tar") for archive in options.archives]
            return imagenet(archives, devkit=get(options.devkit) if options.devkit else None, verify=verify)
        case "kaggle":
            return kaggle(get(options.archive, ".zip", ".tar.gz"))
        case "tiny-imagenet":
            return tiny_imagenet(get(options.archive or str(TINY_IMAGENET_ZIP.url)), verify=verify)
        case name:
            archive = options.archive or str(FASTAI[name, options.size].url)
            return fastai(name, get(archive), size=options.size, verify=verify)


@contextmanager
def _bars() -> Iterator[Progress]:
    columns = (
        TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn()
    )  # fmt: skip
    with Progress(*columns, console=console, disable=not console.is_terminal) as bars:
        yield bars


def _show(made: Prepared, out: Path, options: argparse.Namespace) -> None:
    about, counts = made.about, made.about["counts"]
    if options.json:
        facts = {key: about[key] for key in ("name", "counts", "digest", "left_out")}
        print(json.dumps({**facts, "data": str(out), "made": made.made, "resumed": made.resumed}))
        return
    if not made.made:
        print(f"{about['name']}: already complete in {out}")
        return
    published = about["published"]
    as_published = published == [counts["train"], counts["val"]]
    rows = {
        "data": f"{about['name']} in {out}",
        "images": f"{counts['train']:,} to train, {counts['val']:,} to validate, {len(about['classes']):,} classes"
        + (", as published" if as_published else ""),
        "digest": about["digest"],
    }
    if published and not as_published:
        rows["warning"] = f"published are {published[0]:,} and {published[1]:,} images"
    if made.resumed:
        rows["resumed"] = f"{made.resumed:,} images were there already"
    for path, reason in about["left_out"][:SHOWN]:
        console.print(f"left out: {path} {reason}")
    if about["left_out"]:
        rows["left out"] = f"{len(about['left_out']):,} files, all named in {out / 'dataset.json'}"
    show_table("prepared", rows)
