"""Imagenette and Imagewoof, ten classes of ImageNet each, as fast.ai publishes them.

Sources: torchvision.datasets.imagenette, github.com/fastai/imagenette, and Catalyst for Imagewoof's MD5.
"""

from __future__ import annotations

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any, cast

from trainer.dataset._archive_files import ArchiveFile, archive_size
from trainer.dataset._archives import TOP, Member
from trainer.dataset._look import Look
from trainer.dataset._manifest import SplitName
from trainer.dataset._source import Archive, ImageKey, Published, Source, archive_images, expected_md5
from trainer.dataset.forms._form import Fetch, Form, Found, Identity, add_archive, add_no_md5
from trainer.dataset.forms._imagenet_labels import imagenet_classes

PUBLISHED: Mapping[str, Published] = {
    "imagenette": Published(train=9_469, val=3_925, classes=10),
    "imagewoof": Published(train=9_025, val=3_929, classes=10),
}
_URL = "https://s3.amazonaws.com/fast-ai-imageclas/"
ARCHIVES: Mapping[tuple[str, str], Archive] = {
    (name, size): Archive(file, md5, length, _URL + file)
    for name, size, file, md5, length in (
        ("imagenette", "full", "imagenette2.tgz", "fe2fc210e6bb7c5664d602c3cd71e612", 1_557_161_267),
        ("imagenette", "320", "imagenette2-320.tgz", "3df6f0d01a2c9592104656642f5e78a3", 341_663_724),
        ("imagenette", "160", "imagenette2-160.tgz", "e793b78cc4c9e9a4ccc0c1155377a412", 99_003_388),
        ("imagewoof", "full", "imagewoof2.tgz", "9aafe18bcdb1632c4249a76c458465ba", None),
        ("imagewoof", "320", "imagewoof2-320.tgz", "0f46d997ec2264e97609196c95897a44", None),
        ("imagewoof", "160", "imagewoof2-160.tgz", "3d200a7be99704a0d7509be2a9fbfe15", None),
    )
}


def fastai(name: str, archive: ArchiveFile, *, size: str = "full", verify: bool = True) -> Source:
    """Imagenette or Imagewoof from NAME2[-SIZE].tgz.

    Args:
        name: imagenette or imagewoof.
        archive: path of the archive, or where it is read in place.
        size: full, or the shorter side of its images in pixels, 320 or 160.
        verify: whether it must be the published file, by length and MD5.
    """
    pattern = re.compile(rf"{TOP}{name}2(?:-\d+)?/(train|val)/(n\d{{8}})/([\w-]+\.JPEG)")

    def key(member: Member) -> ImageKey | None:
        found = pattern.fullmatch(member.name)
        return (cast(SplitName, found[1]), found[2], found[3]) if found else None

    return Source(
        name=name,
        images=lambda: archive_images(archive, key),
        bytes=archive_size(archive),
        options=_options(size),
        archives=expected_md5({archive: ARCHIVES[name, size]}, verify=verify),
        published=PUBLISHED[name],
        class_names=imagenet_classes,
    )


def _options(size: str) -> dict[str, Any]:
    return {} if size == "full" else {"size": size}


def _add_arguments(parser: ArgumentParser) -> None:
    add_archive(parser, publisher="fast.ai")
    parser.add_argument(
        "--size",
        choices=["full", "320", "160"],
        default="full",
        help="shorter side of the published images, in pixels (default: full)",
    )
    add_no_md5(parser)


def _identity(options: Namespace) -> Identity:
    return options.form, _options(options.size)


def _source(options: Namespace, out: Path, fetch: Fetch) -> Source:
    name, size = options.form, options.size
    archive = fetch(options.archive or str(ARCHIVES[name, size].url))
    return fastai(name, archive, size=size, verify=not options.no_md5)


def _recognise(name: str, look: Look) -> Found | None:
    """By the archive's name, or the folder that its members are in."""
    pattern = re.compile(rf"{TOP}{name}2(?:-(320|160))?(?:/.*|\.tgz)")
    found = next(filter(None, map(pattern.fullmatch, [look.name, *look.members])), None)
    if found is None or look.is_folder:
        return None
    size = found[1] or "full"
    return Found(f"{name.capitalize()}, 10 classes, in its archive", [look.address, "--size", size])


FORMS = tuple(
    Form(
        name=name,
        help=help,
        example=f"{name} --size 320 --out data/{name}",
        add_arguments=_add_arguments,
        identity=_identity,
        source=_source,
        recognise=partial(_recognise, name),
        layout=f"{name}2.tgz, {name}2-320.tgz or {name}2-160.tgz",
    )
    for name, help in (
        ("imagenette", "Imagenette: ten easy classes of ImageNet"),
        ("imagewoof", "Imagewoof: ten breeds of dogs from ImageNet"),
    )
)
