"""ImageNet (ILSVRC) as one archive: Kaggle's zip, or ILSVRC2017_CLS-LOC.tar.gz of academictorrents.com."""

from __future__ import annotations

import re
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from trainer.dataset._archive_files import ArchiveFile, archive_size
from trainer.dataset._archives import TOP, Member, members, text_of
from trainer.dataset._ignored import OTHER_MEMBER, SYSTEM, Ignored
from trainer.dataset._look import Look
from trainer.dataset._names import is_system_member
from trainer.dataset._source import Source, SourceImage, member_image
from trainer.dataset.forms._form import Fetch, Form, Found, add_archive
from trainer.dataset.forms._imagenet_labels import IMAGENET, check_solution, imagenet_classes, val_wnids
from trainer.errors import DataError

_TRAIN = re.compile(rf"{TOP}ILSVRC/Data/CLS-LOC/train/(n\d{{8}})/(\1_\d+\.JPEG)")
_VAL = re.compile(rf"{TOP}ILSVRC/Data/CLS-LOC/val/(ILSVRC2012_val_\d{{8}}\.JPEG)")
_TAR = re.compile(rf"{TOP}imagenet_object_localization\w*\.tar\.gz")
_SOLUTION = "LOC_val_solution.csv"
_NAMES = ("imagenet-object-localization-challenge.zip", "ILSVRC2017_CLS-LOC.tar.gz")


def kaggle(archive: ArchiveFile) -> Source:
    """ImageNet from imagenet-object-localization-challenge.zip or ILSVRC2017_CLS-LOC.tar.gz.

    Labels of the validation images come from the list in this package; where the archive has Kaggle's
    LOC_val_solution.csv, the two must agree. MD5 of these archives are not published.

    Args:
        archive: the zip or the tar.
    """

    def images() -> Iterator[SourceImage | Ignored]:
        wnids = val_wnids()
        for member in _members(archive):
            if is_system_member(member.name):
                yield Ignored(member.name, SYSTEM)
            elif found := _TRAIN.fullmatch(member.name):
                if found[1] not in imagenet_classes():
                    raise DataError(
                        f"{archive}: {member.name!r} does not belong to one of ImageNet's 1,000 classes"
                    )
                yield member_image(member, "train", found[1], found[2])
            elif found := _VAL.fullmatch(member.name):
                if found[1] not in wnids:
                    raise DataError(f"{archive}: {member.name!r} is not one of the 50,000 validation images")
                yield member_image(member, "val", wnids[found[1]], found[1])
            else:
                if member.name.rpartition("/")[2] == _SOLUTION:
                    check_solution(f"{archive}: {member.name}", text_of(archive, member), wnids)
                yield Ignored(member.name, OTHER_MEMBER)

    return Source(
        name="imagenet",
        images=images,
        bytes=archive_size(archive),
        archives={archive: None},
        published=IMAGENET,
        class_names=imagenet_classes,
    )


def _members(archive: ArchiveFile) -> Iterator[Member]:
    """The members; an older zip of Kaggle's holds the images in a tar.gz of their own."""
    for member in members(archive):
        if _TAR.fullmatch(member.name):
            yield from member.nested()
        else:
            yield member


def _source(options: Namespace, out: Path, fetch: Fetch) -> Source:
    return kaggle(fetch(options.archive, ".zip", ".tar.gz"))


def _recognise(look: Look) -> Found | None:
    known = look.name in _NAMES or any(re.match(rf"{TOP}ILSVRC/\w+/CLS-LOC/", name) for name in look.members)
    return (
        Found("ImageNet, 1,000 classes, in an archive of its Kaggle form", [look.address]) if known else None
    )


FORM = Form(
    name="kaggle",
    help="ImageNet from Kaggle's zip or from ILSVRC2017_CLS-LOC.tar.gz",
    example="kaggle imagenet-object-localization-challenge.zip --out /data/imagenet",
    add_arguments=add_archive,
    identity=lambda options: ("imagenet", {}),
    source=_source,
    recognise=_recognise,
    layout=" or ".join(_NAMES),
)
