"""`trainer prepare`."""

from __future__ import annotations

import json
import os
import sys
from argparse import REMAINDER, ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.cli import _args
from trainer.errors import ConfigError

if TYPE_CHECKING:
    from rich.progress import Progress

    from trainer.dataset import ArchiveFile, Form, Found, Prepared, Resize

NAME, GROUP, ORDER = "prepare", "data", 1
HELP = "make a data set from what is there; the same command resumes an interrupted one"
EXAMPLE = """trainer prepare /data/imagenet
          trainer prepare imagenet-object-localization-challenge.zip --out /data/imagenet
          trainer prepare imagenette --size 320 --out /data/imagenette"""
USAGE = """trainer prepare [-h] PATH [option …]
       trainer prepare [-h] FORM [option …]"""
ABOUT = """
PATH, a folder of images, an archive, a folder of archives or a URL, is looked at: what is found is said and done.
Images on disk stay where they are; from an archive they go to --out DIR. The options are those of the form that is
found. ./NAME is a path that is called like a form."""

SHOWN = 10  # classes, and skipped files, that are listed; dataset.json has all
PATH = "PATH"  # the parser of what is no form


def add_arguments(parser: ArgumentParser) -> None:
    """A parser for each form: its own arguments, and those that all forms have; and one for a path."""
    from trainer.dataset import FORMS

    parser.usage = USAGE
    parser.description = f"{parser.description}{ABOUT}"
    forms = parser.add_subparsers(metavar="FORM", required=True, dest="form", prog="trainer prepare")
    _take_paths(parser, {form.name for form in FORMS})
    by_path = forms.add_parser(PATH, allow_abbrev=False, description="Prepare what is at a path or URL.")
    by_path.add_argument("path", metavar="PATH", help="folder of images, archive, folder of archives, or URL")
    by_path.add_argument("rest", nargs=REMAINDER, metavar="…", help="options of the form that is found")
    for form in FORMS:
        one = forms.add_parser(
            form.name,
            help=form.help,
            description=f"Prepare {form.help}.",
            epilog=f"example:  trainer prepare {form.example}",
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,
        )
        form.add_arguments(one)
        one.add_argument(
            "--out",
            type=Path,
            required=not form.in_place,
            metavar="DIR",
            help="folder of the data set, new or empty"
            + (" (default: the images stay where they are, with a manifest beside)" if form.in_place else ""),
        )
        if form.resizable:
            _add_resize(one)
        _args.add_workers(one)
        _args.add_json(one)


def _take_paths(parser: ArgumentParser, forms: set[str]) -> None:
    """Let the parser read `prepare /data/x` as `prepare PATH /data/x`."""
    parse = parser.parse_known_args

    def parse_known_args(args: Sequence[str] | None = None, namespace: Any = None) -> tuple[Any, list[str]]:
        words = list(args or ())
        if words and not words[0].startswith("-") and words[0] not in forms:
            words = [PATH, *words]
        try:
            return parse(words, namespace)
        except SystemExit as end:
            if end.code and words:
                _say_named_like_a_form(words[0])
            raise

    parser.parse_known_args = parse_known_args  # type: ignore[method-assign, assignment]


def _say_named_like_a_form(form: str) -> None:
    if os.path.exists(form):
        print(f"note: {form} is a form here; ./{form} is the file or folder of that name", file=sys.stderr)


def _add_resize(parser: ArgumentParser) -> None:
    parser.add_argument(
        "--shorter-side",
        type=_args.positive_int,
        metavar="PX",
        help="store larger images smaller, with this shorter side in pixels (suggested: 352; default: unchanged)",
    )
    parser.add_argument(
        "--quality",
        type=_args.jpeg_quality,
        default=90,
        help="JPEG quality of images that are stored smaller (default: 90)",
    )


def run(options: Namespace) -> int:
    """Prepare the data set that `options` name and show the result."""
    from trainer.cli._terminal import byte_bars
    from trainer.dataset import FORMS, Prepared, find_complete, prepare

    if options.form == PATH:
        options = _options_of(options.path, options.rest)
    else:
        _say_named_like_a_form(options.form)
    (form,) = (form for form in FORMS if form.name == options.form)
    resize = _resize(form, options)
    out = _out(form, options)
    # Before its archives are asked for: those of a complete data set may be gone. A user's own folder is looked at.
    if not (form.in_place and os.path.isdir(options.folder)):
        metadata = find_complete(out, *form.identity(options), resize)
        if metadata is not None:
            _show(Prepared(metadata, made=False), out, options)
            return 0
    with byte_bars() as bars:
        source = form.source(options, out, _Fetch(options, out, bars))
        bar = bars.add_task("preparing", total=source.bytes or None)
        made = prepare(
            source,
            out,
            resize=resize,
            workers=options.workers,
            progress=lambda size: bars.update(bar, advance=size),
        )
    _show(made, out, options)
    return 0


def _out(form: Form, options: Namespace) -> Path:
    """Folder of the data set, or of its manifest alone."""
    if form.in_place and options.manifest and options.out:
        raise ConfigError(
            "--out copies the images, --manifest leaves them where they are; give one of the two"
        )
    folders = (options.manifest, options.out, options.folder) if form.in_place else (options.out,)
    return Path(next(folder for folder in folders if folder))


def _options_of(path: str, rest: Sequence[str]) -> Namespace:
    """The options of `trainer prepare FORM …` for what is at `path`, after a line that says what it is."""
    from trainer.cli import make_parser
    from trainer.cli._terminal import console
    from trainer.dataset import recognise, shown

    form, found = recognise(path)
    given = {word.partition("=")[0] for word in rest}
    asks_for_help = not given.isdisjoint(("-h", "--help"))
    if not asks_for_help and not form.in_place and "--out" not in given:
        raise ConfigError(f"{shown(path)} is {found.what}; say with --out DIR where the images shall go")
    arguments = [NAME, form.name, *found.arguments, *_without_paths(rest, form, found)]
    options: Namespace = make_parser(arguments).parse_args(arguments)
    out = _out(form, options)
    where = (
        f"the images go to {out}"
        if options.out
        else f"the images stay where they are, the manifest is in {out}"
    )
    console.print(f"found: {found.what}; {where} (trainer prepare {form.name})")
    return options


def _without_paths(rest: Sequence[str], form: Form, found: Found) -> list[str]:
    """The options behind a path. Other paths there must be of what was found with the first, as the second tar is."""
    behind = next((at for at, word in enumerate(rest) if word.startswith("-")), len(rest))
    known = {os.path.abspath(word) for word in found.arguments}
    if others := [word for word in rest[:behind] if os.path.abspath(word) not in known]:
        raise ConfigError(
            f"{others[0]} is a second path; give one, or name the form: trainer prepare {form.name} --help says how"
        )
    return list(rest[behind:])


def _resize(form: Form, options: Namespace) -> Resize | None:
    from trainer.dataset import Resize

    if not form.resizable or options.shorter_side is None:
        return None
    if form.in_place and options.out is None:
        raise ConfigError(
            "--shorter-side would change your own images; name a folder for the smaller ones with --out"
        )
    return Resize(options.shorter_side, options.quality)


class _Fetch:
    """A downloader with a bar for each archive."""

    def __init__(self, options: Namespace, out: Path, bars: Progress) -> None:
        self._options, self._out, self._bars = options, out, bars

    def __call__(self, archive: str, *endings: str) -> ArchiveFile:
        from trainer.dataset import check_new, fetch, shown_url

        if (downloads := self._options.downloads) is None:
            check_new(self._out)  # nothing is downloaded into a folder that will be refused
            downloads = self._out / ".preparing" / "downloads"
        return fetch(
            archive,
            downloads,
            stream=self._options.downloads is None,
            endings=endings,
            progress=self.bar(f"downloading {shown_url(archive).rsplit('/', 1)[-1][:40]}"),
        )

    def bar(self, description: str) -> Callable[[int, int], None]:
        bar = self._bars.add_task(description, total=None, visible=False)
        return lambda done, total: self._bars.update(bar, completed=done, total=total or None, visible=True)


def _show(made: Prepared, out: Path, options: Namespace) -> None:
    from trainer.cli._terminal import console, show_table
    from trainer.dataset import (
        completeness,
        counts_per_class,
        doubts,
        ignored_in,
        open_dataset,
        several,
        shown,
    )

    metadata, counts, skipped = made.metadata, made.metadata["counts"], made.metadata["skipped"]
    dataset = open_dataset(out)
    warnings, ignored, against = doubts(dataset), ignored_in(metadata), completeness(dataset)
    if options.json:
        result = {key: metadata[key] for key in ("name", "counts", "digest", "classes", "skipped")}
        result |= {key: getattr(made, key) for key in ("made", "resumed", "added", "removed")}
        result |= {"data": str(out), "ignored": [one._asdict() for one in ignored], "warnings": warnings}
        result |= {
            "published": against.as_dict() if against else None,
            "per_class": counts_per_class(dataset, against),
        }
        print(json.dumps(result))
        return
    if not made.made:
        for warning in warnings:
            console.print(f"warning: {warning}")
        print(f"{metadata['name']}: already complete in {shown(str(out))}")
        return
    as_published = against is not None and against.whole and against.complete()
    rows = {
        "data": f"{metadata['name']} in {shown(str(out))}"
        + (f", its images in {shown(str(dataset.train.root))}" if dataset.train.root != out else ""),
        "images": f"{counts['train']:,} to train, {counts['val']:,} to validate, "
        f"{len(dataset.classes):,} classes" + (", as published" if as_published else ""),
        "classes": several(dataset.classes, SHOWN),
        "digest": metadata["digest"],
    }
    if fraction := metadata["options"].get("val_fraction"):
        rows["split"] = (
            f"{fraction:.3g} of each class validates, chosen with seed {metadata['options']['seed']}"
        )
    if warnings:
        rows["warning"] = "; ".join(warnings)
    if made.resumed:
        rows["resumed"] = f"{made.resumed:,} images had been written before"
    if made.added or made.removed:
        rows["changed"] = f"{made.added:,} images are new, {made.removed:,} are no more"
    for path, reason in skipped[:SHOWN]:
        console.print(f"skipped: {shown(path)} {reason}")
    for one in ignored[:SHOWN]:
        console.print(f"ignored: {one}")
    if skipped:
        rows["skipped"] = f"{len(skipped):,} files, all listed in {shown(str(out / 'dataset.json'))}"
    if ignored:
        rows["ignored"] = f"{sum(one.files for one in ignored):,} files, because of their names"
    show_table("prepared", rows)
