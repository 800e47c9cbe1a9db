"""Every form in which the data is handed out, as a source of pictures."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import numpy as np

from trainer.dataset._archives import Data, Member, members
from trainer.dataset._manifest import SPLITS, Part, Skipped
from trainer.dataset._preparation import Source, SourceImage
from trainer.dataset._published import (
    FASTAI,
    IMAGENET,
    IMAGENET_DEVKIT,
    IMAGENET_TRAIN,
    IMAGENET_VAL,
    IMAGENETTE,
    IMAGEWOOF,
    TINY_IMAGENET,
    TINY_IMAGENET_ZIP,
    Archive,
    imagenet_classes,
    imagenet_val_labels,
)
from trainer.errors import DataError

ENDINGS = (".jpeg", ".jpg", ".png")

Place = tuple[Part, str, str]  # part, class and file name


def imagenet(archives: Sequence[Path], *, devkit: Path | None = None, verify: bool = True) -> Source:
    """ILSVRC 2012 as image-net.org hands it out: a tar of 1,000 class tars, and a flat one to validate with.

    Args:
        archives: ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar, in any order and under any name.
        devkit: ILSVRC2012_devkit_t12.tar.gz, to take the labels of the validation images from instead
            of the list in this package.
        verify: whether they must be the published files, by length and MD5.
    """
    if len(archives) != 2:
        raise DataError(
            f"prepare imagenet takes two archives, {IMAGENET_TRAIN.name} and {IMAGENET_VAL.name}; "
            f"it was given {len(archives)}"
        )
    train, val = archives
    if not _first_name(train).endswith(".tar"):
        train, val = val, train
    if not _first_name(train).endswith(".tar"):
        raise DataError(f"neither {train} nor {val} is a tar of class tars such as {IMAGENET_TRAIN.name}")
    known = {train: IMAGENET_TRAIN, val: IMAGENET_VAL} | ({devkit: IMAGENET_DEVKIT} if devkit else {})

    def pictures() -> Iterator[SourceImage]:
        for outer in members(train):
            group = outer.name.removesuffix(".tar")
            if group not in imagenet_classes() or group == outer.name:
                raise DataError(f"{train}: {outer.name!r} is not the tar of one of ImageNet's 1,000 classes")
            for image in outer.nested():
                if not re.fullmatch(rf"{group}_\d+\.JPEG", image.name):
                    raise DataError(f"{train}: {image.name!r} in {outer.name} is not an image of that class")
                yield _picture(image, ("train", group, image.name))
        labels = _devkit_labels(devkit) if devkit else _val_groups()
        for image in members(val):
            if image.name not in labels:
                raise DataError(f"{val}: {image.name!r} is not one of the 50,000 validation images")
            yield _picture(image, ("val", labels[image.name], image.name))

    return Source(
        name="imagenet",
        pictures=pictures,
        bytes=train.stat().st_size + val.stat().st_size,
        sums=_sums(known, verify),
        published=IMAGENET if verify else None,
        class_names=imagenet_classes,
    )


_KAGGLE_TRAIN = re.compile(r"(?:\./)?ILSVRC/Data/CLS-LOC/train/(n\d{8})/(\1_\d+\.JPEG)")
_KAGGLE_VAL = re.compile(r"(?:\./)?ILSVRC/Data/CLS-LOC/val/(ILSVRC2012_val_\d{8}\.JPEG)")


def kaggle(archive: Path) -> Source:
    """ILSVRC as Kaggle's zip (imagenet-object-localization-challenge) or ILSVRC2017_CLS-LOC.tar.gz hold it.

    Labels of the validation images come from the list in this package; where the archive has Kaggle's
    LOC_val_solution.csv, the two must agree. Sums of these archives are not published.
    """

    def pictures() -> Iterator[SourceImage]:
        labels = _val_groups()
        for member in members(archive):
            if found := _KAGGLE_TRAIN.fullmatch(member.name):
                if found[1] not in imagenet_classes():
                    raise DataError(f"{archive}: {member.name!r} is not of one of ImageNet's 1,000 classes")
                yield _picture(member, ("train", found[1], found[2]))
            elif found := _KAGGLE_VAL.fullmatch(member.name):
                if found[1] not in labels:
                    raise DataError(f"{archive}: {member.name!r} is not one of the 50,000 validation images")
                yield _picture(member, ("val", labels[found[1]], found[1]))
            elif member.name == "LOC_val_solution.csv":
                _check_solution(archive, member, labels)

    return Source(
        name="imagenet",
        pictures=pictures,
        bytes=archive.stat().st_size,
        sums={archive: None},
        class_names=imagenet_classes,
    )


def fastai(name: str, archive: Path, *, size: str = "full", verify: bool = True) -> Source:
    """Imagenette or Imagewoof, ten classes of ImageNet each: NAME2[-SIZE].tgz.

    Args:
        name: imagenette or imagewoof.
        archive: the file.
        size: full, or the shorter side in pixels, 320 or 160.
        verify: whether it must be the published file.
    """
    pattern = re.compile(rf"(?:\./)?{name}2(?:-\d+)?/(train|val)/(n\d{{8}})/([\w-]+\.JPEG)")

    def place(member: Member) -> Place | None:
        found = pattern.fullmatch(member.name)
        return (cast(Part, found[1]), found[2], found[3]) if found else None

    published = {"imagenette": IMAGENETTE, "imagewoof": IMAGEWOOF}[name]
    return Source(
        name=name,
        pictures=lambda: _placed(archive, place),
        bytes=archive.stat().st_size,
        options={} if size == "full" else {"size": size},
        sums=_sums({archive: FASTAI[name, size]}, verify),
        published=published if verify else None,
        class_names=imagenet_classes,
    )


_TINY = re.compile(r"tiny-imagenet-200/(?:train/(n\d{8})/images/(\1_\d+\.JPEG)|val/images/(val_\d+\.JPEG))")


def tiny_imagenet(archive: Path, *, verify: bool = True) -> Source:
    """Tiny ImageNet, tiny-imagenet-200.zip: 200 classes, 64 x 64 pixels, labels in val_annotations.txt."""

    def text(name: str) -> list[list[str]]:
        for member in members(archive):
            if member.name == f"tiny-imagenet-200/{name}":
                return [line.split("\t") for line in bytes(member.read()).decode().splitlines()]
        raise DataError(f"{archive} has no tiny-imagenet-200/{name}; this is not the published archive")

    def pictures() -> Iterator[SourceImage]:
        labels = {fields[0]: fields[1] for fields in text("val/val_annotations.txt") if len(fields) > 1}
        groups = {fields[0] for fields in text("wnids.txt")}

        def place(member: Member) -> Place | None:
            found = _TINY.fullmatch(member.name)
            if found is None:
                return None
            part, group, name = (
                ("train", found[1], found[2]) if found[1] else ("val", labels.get(found[3]), found[3])
            )
            if group not in groups:
                raise DataError(f"{archive}: {member.name!r} belongs to none of the 200 classes in wnids.txt")
            return cast(Part, part), group, name

        yield from _placed(archive, place)

    return Source(
        name="tiny-imagenet",
        pictures=pictures,
        bytes=archive.stat().st_size,
        sums=_sums({archive: TINY_IMAGENET_ZIP}, verify),
        published=TINY_IMAGENET if verify else None,
        class_names=lambda: {fields[0]: fields[1] for fields in text("words.txt") if len(fields) > 1},
    )


def folder(
    root: Path, *, out: Path, val_fraction: float | None = None, seed: int = 0, name: str = ""
) -> Source:
    """The user's own class folders: `ROOT/{train,val}/CLASS/IMAGE`, or `ROOT/CLASS/IMAGE` to be split.

    Files whose names begin with a dot or end otherwise are no images; links are followed. A file that
    cannot be used is left out and named.

    Args:
        root: the folder.
        out: where the data set will be; if that is `root` itself, the images stay where they are.
        val_fraction: share of each class that validates, at least one image of it; None if the folder
            has train/ and val/.
        seed: which images those are.
        name: what to call the data set; by default as the folder.
    """
    if not root.is_dir():
        raise DataError(f"there is no folder {root}")
    in_place = root.resolve() == out.resolve()
    if not in_place and out.resolve().is_relative_to(root.resolve()):
        raise DataError(
            f"{out} is inside {root}; give a folder outside, or none to leave the images in place"
        )
    if val_fraction is None and not ((root / "train").is_dir() and (root / "val").is_dir()):
        raise DataError(
            f"{root} has no train/ and val/; if it holds one folder a class, say how much of each "
            "validates, e.g. --val-fraction 0.1"
        )

    def pictures() -> Iterator[SourceImage | Skipped]:
        if val_fraction is None:
            for part in SPLITS:
                for group in _groups(root / part):
                    for name in _images(root / part / group):
                        yield _own(root, f"{part}/{group}/{name}", part, group, in_place)
            return
        for group in _groups(root):
            names = _images(root / group)
            validating = _chosen(names, val_fraction, seed=seed, group=group)
            for name in names:
                where: Part = "val" if name in validating else "train"
                yield _own(root, f"{group}/{name}", where, group, in_place)

    return Source(
        name=name or root.resolve().name,
        pictures=pictures,
        bytes=0 if in_place else _bytes_below(root),
        options={} if val_fraction is None else {"val_fraction": val_fraction, "seed": seed},
        in_place=in_place,
    )


def _own(root: Path, path: str, part: Part, group: str, in_place: bool) -> SourceImage | Skipped:
    """One of the user's files. A FIFO or a device would hang whoever reads it."""
    try:
        about = (root / path).stat()
    except OSError as error:
        return Skipped(path, f"cannot be read: {error.strerror}")
    if not (root / path).is_file():
        return Skipped(path, "is not a regular file")
    if not path.isprintable():
        return Skipped(repr(path), "has control characters in its name")
    if about.st_size > 2**28:
        return Skipped(path, f"has {about.st_size:,} bytes; too many for an image")
    where = path if in_place else f"{part}/{group}/{os.path.basename(path)}"
    return SourceImage(part, group, where, about.st_size, (root / path).read_bytes)


def _groups(root: Path) -> list[str]:
    try:
        with os.scandir(root) as entries:
            return sorted(e.name for e in entries if e.is_dir() and not e.name.startswith("."))
    except OSError as error:
        raise DataError(f"{root} cannot be listed: {error.strerror}") from None


def _images(root: Path) -> list[str]:
    try:
        return sorted(n for n in os.listdir(root) if n.lower().endswith(ENDINGS) and not n.startswith("."))
    except OSError as error:
        raise DataError(f"{root} cannot be listed: {error.strerror}") from None


def _chosen(names: Sequence[str], fraction: float, *, seed: int, group: str) -> set[str]:
    """The images of a class that validate; with all else equal, the same whatever other classes there are."""
    count = min(max(1, round(fraction * len(names))), len(names) - 1)
    luck = np.random.default_rng([seed, *group.encode()])
    return {names[index] for index in luck.permutation(len(names))[: max(0, count)]}


def _bytes_below(root: Path) -> int:
    return sum(
        os.path.getsize(os.path.join(folder, name))
        for folder, _, names in os.walk(root, followlinks=True)
        for name in names
        if name.lower().endswith(ENDINGS) and os.path.isfile(os.path.join(folder, name))
    )


def _placed(archive: Path, place: Callable[[Member], Place | None]) -> Iterator[SourceImage]:
    for member in members(archive):
        if (where := place(member)) is not None:
            yield _picture(member, where)


def _picture(member: Member, place: Place) -> SourceImage:
    part, group, name = place
    read = member.read
    if not member.lasting:
        data = member.read()

        def read() -> Data:
            return data

    return SourceImage(part, group, f"{part}/{group}/{name}", member.size, read)


def _first_name(archive: Path) -> str:
    first = next(members(archive), None)
    if first is None:
        raise DataError(f"{archive} is empty")
    return first.name


def _sums(archives: Mapping[Path, Archive], verify: bool) -> dict[Path, str | None]:
    """What the archives' MD5 must be. A wrong length shows at once, a wrong byte at the end."""
    if not verify:
        return dict.fromkeys(archives)
    for path, archive in archives.items():
        size = path.stat().st_size
        if archive.bytes is not None and size != archive.bytes:
            raise DataError(
                f"{path} has {size:,} bytes and the published {archive.name} has {archive.bytes:,}; get it "
                "again, or say --no-md5 if it is meant to be another"
            )
    return {path: archive.md5 for path, archive in archives.items()}


def _val_groups() -> dict[str, str]:
    classes = tuple(imagenet_classes())
    return {
        f"ILSVRC2012_val_{number:08d}.JPEG": classes[label]
        for number, label in enumerate(imagenet_val_labels(), start=1)
    }


def _check_solution(archive: Path, solution: Member, labels: Mapping[str, str]) -> None:
    """LOC_val_solution.csv: ImageId, then `WNID x y x y` for each box."""
    for row in csv.DictReader(io.StringIO(bytes(solution.read()).decode())):
        image, boxes = f"{row.get('ImageId')}.JPEG", (row.get("PredictionString") or "").split()
        if not boxes or labels.get(image) != boxes[0]:
            raise DataError(f"{archive}: {solution.name} says otherwise of {image} than the published labels")


def _devkit_labels(devkit: Path) -> dict[str, str]:
    """The development kit numbers the classes otherwise; its meta.mat says how."""
    from scipy.io import loadmat

    wanted = {"meta.mat": b"", "ILSVRC2012_validation_ground_truth.txt": b""}
    for member in members(devkit):
        if (name := os.path.basename(member.name)) in wanted:
            wanted[name] = bytes(member.read())
    if not all(wanted.values()):
        raise DataError(f"{devkit} lacks {' or '.join(n for n, data in wanted.items() if not data)}")
    synsets = loadmat(io.BytesIO(wanted["meta.mat"]), squeeze_me=True)["synsets"]
    groups = {int(row["ILSVRC2012_ID"]): str(row["WNID"]) for row in synsets}
    numbers = wanted["ILSVRC2012_validation_ground_truth.txt"].split()
    return {
        f"ILSVRC2012_val_{position:08d}.JPEG": groups[int(number)]
        for position, number in enumerate(numbers, start=1)
    }
