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
from pathlib import Path

from trainer.dataset._archives import members
from trainer.dataset._source import Archive, Published, Source, SourceImage, expected_md5, member_image
from trainer.dataset.forms._form import Fetch, Form, add_downloads, add_no_md5
from trainer.dataset.forms._imagenet_labels import imagenet_classes, val_name, val_wnids
from trainer.errors import DataError

IMAGENET = Published(train=1_281_167, val=50_000, classes=1000)
TRAIN = Archive("ILSVRC2012_img_train.tar", "1d675b47d978889d74fa0da5fadfb00e", 147_897_477_120)
VAL = Archive("ILSVRC2012_img_val.tar", "29b22e2961454d5413ddabcf34fc5622", 6_744_924_160)
DEVKIT = Archive("ILSVRC2012_devkit_t12.tar.gz", "fa75699e90414af021442c21a62c3abf")


def imagenet(archives: Sequence[Path], *, devkit: Path | None = None, verify: bool = True) -> Source:
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
    train, val = archives
    if not _first_name(train).endswith(".tar"):
        train, val = val, train
    if not _first_name(train).endswith(".tar"):
        raise DataError(f"neither {train} nor {val} is a tar of class tars such as {TRAIN.name}")
    known = {train: TRAIN, val: VAL} | ({devkit: DEVKIT} if devkit else {})

    def images() -> Iterator[SourceImage]:
        for class_tar in members(train):
            wnid = class_tar.name.removesuffix(".tar")
            if wnid not in imagenet_classes() or wnid == class_tar.name:
                raise DataError(
                    f"{train}: {class_tar.name!r} is not the tar of one of ImageNet's 1,000 classes"
                )
            for image in class_tar.nested():
                if not re.fullmatch(rf"{wnid}_\d+\.JPEG", image.name):
                    raise DataError(
                        f"{train}: {image.name!r} in {class_tar.name} is not an image of that class"
                    )
                yield member_image(image, "train", wnid, image.name)
        wnids = _devkit_wnids(devkit) if devkit else val_wnids()
        for image in members(val):
            if image.name not in wnids:
                raise DataError(f"{val}: {image.name!r} is not one of the 50,000 validation images")
            yield member_image(image, "val", wnids[image.name], image.name)

    return Source(
        name="imagenet",
        images=images,
        bytes=train.stat().st_size + val.stat().st_size,
        archives=expected_md5(known, verify=verify),
        published=IMAGENET if verify else None,
        class_names=imagenet_classes,
    )


def _first_name(archive: Path) -> str:
    first = next(members(archive), None)
    if first is None:
        raise DataError(f"{archive} is empty; download it again")
    return first.name


def _devkit_wnids(devkit: Path) -> dict[str, str]:
    """Wnid of each validation image. The devkit numbers the classes in an order of its own, in meta.mat."""
    from scipy.io import loadmat

    wanted = {"meta.mat": b"", "ILSVRC2012_validation_ground_truth.txt": b""}
    for member in members(devkit):
        if (name := os.path.basename(member.name)) in wanted:
            wanted[name] = bytes(member.read())
    if not all(wanted.values()):
        missing = " or ".join(name for name, content in wanted.items() if not content)
        raise DataError(f"{devkit} lacks {missing}; give the published {DEVKIT.name} with --devkit")
    synsets = loadmat(io.BytesIO(wanted["meta.mat"]), squeeze_me=True)["synsets"]
    wnids = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    ground_truth = wanted["ILSVRC2012_validation_ground_truth.txt"].split()
    return {val_name(number): wnids[int(label)] for number, label in enumerate(ground_truth, start=1)}


def _add_arguments(parser: ArgumentParser) -> None:
    parser.add_argument(
        "archives", nargs=2, metavar="TAR", help="the two tars: paths, URLs, magnet links or torrents"
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


FORM = Form(
    name="imagenet",
    help="ImageNet from the two tars of image-net.org",
    example="imagenet ILSVRC2012_img_train.tar ILSVRC2012_img_val.tar --out /data/imagenet",
    add_arguments=_add_arguments,
    identity=lambda options: ("imagenet", {}),
    source=_source,
)
