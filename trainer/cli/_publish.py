"""`trainer publish`."""

from __future__ import annotations

import dataclasses
import json
from argparse import ArgumentParser, Namespace
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.cli import _args
from trainer.run import PublishOptions

if TYPE_CHECKING:
    from trainer.publish import Uploaded
    from trainer.run import Published

NAME, GROUP, ORDER = "publish", "ship", 4
HELP = "put a model on the Hugging Face Hub: weights, bundle, model card, and a Space with its demo"
EXAMPLE = "trainer publish rn50-75 --repo resnet50-imagenet --space resnet50-demo"


def add_arguments(parser: ArgumentParser) -> None:
    """The command's arguments."""
    for add in (_args.add_runs, _args.add_trust, _args.add_json):
        add(parser)
    _args.add_model(parser)
    parser.add_argument(
        "--repo", required=True, metavar="NAME", help="repository of the model: NAME, or OWNER/NAME"
    )
    parser.add_argument(
        "--space", metavar="NAME", help="make a Space with its demo as well: NAME, or OWNER/NAME"
    )
    parser.add_argument("--public", action="store_true", help="let everybody see it (default: private)")
    parser.add_argument(
        "--license",
        metavar="ID",
        help="licence of the weights, as the Hub calls it, such as mit (default: none)",
    )
    parser.add_argument(
        "--with-photos",
        action="store_true",
        help="the data set's photos may be shown: publish the bundle's golden photos, as they are with their EXIF "
        "(default: only for the digits; never for ImageNet's)",
    )
    parser.add_argument(
        "--with-report",
        action="store_true",
        help="publish the run's report too; it shows photos, and paths of this machine",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="write the folders to --out and upload nothing; needs no token"
    )
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="a new or empty folder for --dry-run (default: publish/NAME)"
    )


def run(options: Namespace) -> int:
    """Publish the model and print where it is."""
    from trainer.errors import ConfigError
    from trainer.publish import valid_repo

    given = _args.options_of(PublishOptions, options)
    valid_repo("--repo", given.repo)  # before torch is imported
    if given.space is not None:
        valid_repo("--space", given.space)
    if given.out is not None and not given.dry_run:
        raise ConfigError("--out is the folder of --dry-run; leave it out to upload, or add --dry-run")
    if given.dry_run:
        from trainer.export import check_out

        check_out(given.folder)
    from trainer.cli._terminal import configure_logging
    from trainer.run import publish_model

    configure_logging()
    published = publish_model(given)
    if options.json:
        print(json.dumps(dataclasses.asdict(published), default=str))
    else:
        _show(published)
    return 0


def _show(published: Published) -> None:
    if published.folder:
        print(
            f"{published.source}: written to {published.folder} as it would be uploaded; nothing was uploaded"
        )
    for uploaded in filter(None, (published.model, published.space)):
        print(_line(uploaded))
    if not published.with_timm:
        print("timm and torchvision have no such network: there is the ONNX bundle alone")
    if not published.with_photos:
        print("left out: the golden photos, which are of the data set")


def _line(uploaded: Uploaded) -> str:
    who = "its owner may see it" if uploaded.private else "everybody may see it"
    if not uploaded.new:
        return f"{uploaded.url} holds all of it already; nothing was uploaded"
    return f"{uploaded.url}: uploaded as commit {uploaded.commit[:10]}; {who}"
