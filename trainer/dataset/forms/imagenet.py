"""ImageNet (ILSVRC 2012) as image-net.org publishes it: a tar of 1,000 class tars, and a flat tar for validation.

Sources: MD5 as in torchvision.datasets.imagenet, lengths as in TensorFlow Datasets' checksums (imagenet2012), counts
from the ILSVRC 2012 page.
"""

from __future__ import annotations

import io
import os
import re
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

from trainer.dataset._archive_files import ArchiveFile, archive_size
from trainer.dataset._archives import TOP, Member, members
from trainer.dataset._ignored import SYSTEM, Ignored
from trainer.dataset._look import MOST_ARCHIVES, Look
from trainer.dataset._names import is_system_member
from trainer.dataset._source import Archive, Part, Source, SourceImage, expected_md5, member_image
from trainer.dataset.forms._form import Fetch, Form, Found, add_downloads, add_no_md5
from trainer.dataset.forms._imagenet_labels import IMAGENET, imagenet_classes, val_name, val_wnids
from trainer.dataset.forms._trees import SPLIT_FOLDERS
from trainer.errors import DataError

TRAIN = Archive("ILSVRC2012_img_train.tar", "1d675b47d978889d74fa0da5fadfb00e", 147_897_477_120)
VAL = Archive("ILSVRC2012_img_val.tar", "29b22e2961454d5413ddabcf34fc5622", 6_744_924_160)
DEVKIT = Archive("ILSVRC2012_devkit_t12.tar.gz", "fa75699e90414af021442c21a62c3abf")


def imagenet(
    archives: Sequence[ArchiveFile], *, devkit: ArchiveFile | None = None, verify: bool = True
) -> Source:
    """ImageNet from its two tars.

    Args:
        archives: ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, in any order and under any name.
        devkit: ILSVRC2012_devkit_t12.tar.gz, for its labels of the validation images instead of the list in
            this package.
        verify: whether they must be the published files, by length and MD5.

    Raises: DataError if the archives are not these two.
    """
    if len(archives) != 2:
        raise DataError(
            f"prepare imagenet takes two archives, {TRAIN.name} and {VAL.name}; it was given {len(archives)}"
        )
    flat = [_holds_validation(one) for one in archives]
    if sum(flat) != 1:
        what = "a tar of class tars" if all(flat) else "the tar of the validation images"
        raise DataError(
            f"neither {archives[0]} nor {archives[1]} is {what}; give {TRAIN.name} and {VAL.name}"
        )
    train, val = archives[flat.index(False)], archives[flat.index(True)]
    known: dict[ArchiveFile, Archive] = {train: TRAIN, val: VAL} | ({devkit: DEVKIT} if devkit else {})

    def images() -> Iterator[SourceImage | Ignored | Part]:
        yield from _train_images(train)
        wnids = _devkit_wnids(devkit) if devkit else val_wnids()
        for image in members(val):
            name = image.name.rpartition("/")[2]
            if is_system_member(image.name):
                yield Ignored(image.name, SYSTEM)
            elif name in wnids:
                yield member_image(image, "val", wnids[name], name)
            else:
                raise DataError(f"{val}: {image.name!r} is not one of the 50,000 validation images")

    return Source(
        name="imagenet",
        images=images,
        bytes=archive_size(train) + archive_size(val),
        archives=expected_md5(known, verify=verify),
        published=IMAGENET,
        class_names=imagenet_classes,
    )


_CLASS_TAR = re.compile(rf"{TOP}(n\d{{8}})\.(?:tar(?:\.(?:gz|bz2|xz|zst))?|tgz)")
_IMAGE = re.compile(rf"{TOP}((n\d{{8}})_\d+\.JPEG)")


def _holds_validation(archive: ArchiveFile) -> bool:
    """Whether it is the flat tar, by its first member."""
    first = next((one for one in members(archive) if not is_system_member(one.name)), None)
    if first is None:
        raise DataError(f"{archive} is empty; download it again")
    return first.name.rpartition("/")[2].startswith("ILSVRC2012_val_")


def _train_images(archive: ArchiveFile) -> Iterator[SourceImage | Ignored | Part]:
    """The images of a tar of class tars, each of them a part, or of class folders, as some pack it again."""
    for number, member in enumerate(members(archive)):
        if is_system_member(member.name):
            yield Ignored(member.name, SYSTEM)
        elif image := _IMAGE.fullmatch(member.name):
            yield _train_image(archive, member, image[2])
        elif (found := _CLASS_TAR.fullmatch(member.name)) and found[1] in imagenet_classes():
            yield Part(
                f"{number} {member.name}", member.size, partial(_class_images, archive, member, found[1])
            )
        else:
            raise DataError(f"{archive}: {member.name!r} is not the tar of one of ImageNet's 1,000 classes")


def _class_images(archive: ArchiveFile, class_tar: Member, wnid: str) -> Iterator[SourceImage | Ignored]:
    for member in class_tar.nested():
        if is_system_member(member.name):
            yield Ignored(f"{class_tar.name}/{member.name}", SYSTEM)
        else:
            yield _train_image(archive, member, wnid)


def _train_image(archive: ArchiveFile, member: Member, wnid: str) -> SourceImage:
    found = _IMAGE.fullmatch(member.name)
    if found is None or found[2] != wnid or wnid not in imagenet_classes():
        raise DataError(f"{archive}: {member.name!r} is not an image of that class, {wnid}")
    return member_image(member, "train", wnid, found[1])


def _devkit_wnids(devkit: ArchiveFile) -> dict[str, str]:
    """Wnid of each validation image. The devkit numbers the classes in an order of its own, in meta.mat."""
    from scipy.io import loadmat

    wanted = {"meta.mat": b"", "ILSVRC2012_validation_ground_truth.txt": b""}
    for member in members(devkit):
        if (name := os.path.basename(member.name)) in wanted:
            wanted[name] = bytes(member.read())
    if not all(wanted.values()):
        missing = " or ".join(name for name, content in wanted.items() if not content)
        raise DataError(f"{devkit} lacks {missing}; give the published {DEVKIT.name} with --devkit")
    ground_truth = wanted["ILSVRC2012_validation_ground_truth.txt"].split()
    try:
        synsets = loadmat(io.BytesIO(wanted["meta.mat"]), squeeze_me=True)["synsets"]
        wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
        return {val_name(number): wnids[int(label)] for number, label in enumerate(ground_truth, start=1)}
    except Exception as error:  # SciPy has no one word for a file that is none of MATLAB's
        raise DataError(
            f"{devkit} does not hold the labels of the published {DEVKIT.name} ({error!r}); download it again"
        ) from None


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "archives",
        nargs=2,
        metavar="TAR",
        help="the two tars: paths, URLs (also s3://), magnet links or torrents",
    )
    parser.add_argument(
        "--devkit",
        metavar="TAR",
        help="development kit to take the validation labels from (default: the list in this package)",
    )
    add_downloads(parser)
    add_no_md5(parser)


def _source(options: Namespace, out: Path, fetch: Fetch) -> Source:
    archives = [fetch(archive, "_img_train.tar", "_img_val.tar") for archive in options.archives]
    devkit = fetch(options.devkit) if options.devkit else None
    return imagenet(archives, devkit=devkit, verify=not options.no_md5)


def _recognise(look: Look) -> Found | None:
    """The two tars in a folder, or one of them with the other beside it; the devkit as torchvision has it there."""
    if look.is_folder:
        if any(set(names.values()) <= set(look.folders()) for names in SPLIT_FOLDERS):
            return None  # unpacked already
        archives = look.archives
    elif look.is_file and _split_of(look):
        archives = Look(os.path.dirname(look.address) or ".").archives
    else:
        return None
    few = len(archives) <= MOST_ARCHIVES
    tars = {split: one.address for one in archives if (split := _split_of(one, opened=few))}
    if not tars:
        return None
    if len(tars) < 2:
        (lacking,) = {"train": TRAIN, "val": VAL}.keys() - tars.keys()
        raise DataError(
            f"{look.address}: there is {min(tars.values())} and not the other of the two tars, "
            f"{TRAIN.name if lacking == 'train' else VAL.name}; put it beside, or give both: "
            "trainer prepare imagenet TRAIN_TAR VAL_TAR"
        )
    devkit = [one.address for one in archives if one.name == DEVKIT.name]
    what = "ImageNet, 1,000 classes, in the two tars of image-net.org" + (
        " with their devkit" if devkit else ""
    )
    return Found(what, [tars["train"], tars["val"], *(["--devkit", *devkit] if devkit else [])])


def _split_of(archive: Look, *, opened: bool = True) -> str:
    """Which of the two tars an archive is, by its name, and else if it is `opened` by its members; "" for neither."""
    for split, known in (("train", TRAIN), ("val", VAL)):
        if archive.name == known.name:
            return split
    if not opened:
        return ""
    if any(_CLASS_TAR.fullmatch(name) for name in archive.members):
        return "train"
    return (
        "val"
        if any(re.fullmatch(rf"{TOP}ILSVRC2012_val_\d{{8}}\.JPEG", name) for name in archive.members)
        else ""
    )


FORM = Form(
    name="imagenet",
    help="ImageNet from the two tars of image-net.org",
    example="imagenet ILSVRC2012_img_train.tar ILSVRC2012_img_val.tar --out /data/imagenet",
    add_arguments=_add_arguments,
    identity=lambda options: ("imagenet", {}),
    source=_source,
    recognise=_recognise,
    layout=f"a folder with {TRAIN.name} and {VAL.name}; with {DEVKIT.name} if that is there",
)
