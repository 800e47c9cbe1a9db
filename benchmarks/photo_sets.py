"""Sets of photos that come in a Debian package, as folders that every training program reads.

apt-get download tuxpaint-stamps-default && dpkg -x tuxpaint-stamps-default_*.deb stamps
apt-get download dataset-fashion-mnist && dpkg -x dataset-fashion-mnist_*.deb fashion
"""

from __future__ import annotations

import gzip
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from trainer.errors import DataError

AT_LEAST = 30  # pictures of a class
LONGEST = 256  # pixels


class Picture(NamedTuple):
    """One picture and the name of its class."""

    class_name: str
    image: Image.Image


def make_photo_set(name: str, source: Path | None, out: Path, *, train: int, val: int) -> None:
    """Write `out`/{train,val}/CLASS/NUMBER.jpeg, the same pictures each time; nothing if they are there.

    Args:
        name: stamps, fashion or digits.
        source: where the Debian package was unpacked; digits come with scikit-learn.
        out: the folder to make.
        train: pictures to train with.
        val: pictures to validate with, at most; the rest is left out.

    Raises: DataError if the pictures are not below `source`, or are too few.
    """
    if out.exists():
        return
    pictures = list({"stamps": _stamps, "fashion": _fashion, "digits": _digits}[name](source or Path()))
    if len(pictures) <= train:
        raise DataError(
            f"{source} has {len(pictures)} pictures of {name}, more than {train} are needed: unpack the "
            f"Debian package there ({__name__} has the commands)"
        )
    random.Random(0).shuffle(pictures)
    unfinished = out.with_name(f".{out.name}")
    for number, (class_name, image) in enumerate(pictures[: train + val]):
        folder = unfinished / ("train" if number < train else "val") / class_name
        folder.mkdir(parents=True, exist_ok=True)
        image.save(folder / f"{number:05d}.jpeg", quality=95)
    unfinished.rename(out)


def _stamps(source: Path) -> Iterator[Picture]:
    """Pictures of Tux Paint's larger folders, on white as a child stamps them; at most LONGEST pixels long."""
    paths = sorted(source.glob("**/stamps/*/**/*.png"))
    class_names = [next(one.name for one in path.parents if one.parent.name == "stamps") for path in paths]
    common = {name for name, count in Counter(class_names).items() if count >= AT_LEAST}
    for path, name in zip(paths, class_names, strict=True):
        if name in common:
            with Image.open(path) as stamp:
                cut_out = stamp.convert("RGBA")
            cut_out.thumbnail((LONGEST, LONGEST))
            white = Image.new("RGBA", cut_out.size, "white")
            yield Picture(name, Image.alpha_composite(white, cut_out).convert("RGB"))


def _fashion(source: Path) -> Iterator[Picture]:
    """Fashion-MNIST's test photos: 10,000 of 10 classes, 28 x 28, grey."""
    for images in source.glob("**/t10k-images-idx3-ubyte.gz"):
        labels = images.with_name("t10k-labels-idx1-ubyte.gz")
        grey = np.frombuffer(gzip.decompress(images.read_bytes()), np.uint8, offset=16).reshape(-1, 28, 28)
        of = np.frombuffer(gzip.decompress(labels.read_bytes()), np.uint8, offset=8)
        for photo, label in zip(grey, of, strict=True):
            yield Picture(str(label), Image.fromarray(photo).convert("RGB"))


def _digits(source: Path) -> Iterator[Picture]:
    """scikit-learn's 1,797 digits, 8 x 8, grey."""
    from sklearn.datasets import load_digits

    loaded = load_digits()
    for shades, label in zip(loaded.images, loaded.target, strict=True):
        small = Image.fromarray((shades * (255 / 16)).round().astype("uint8"))
        yield Picture(str(label), small.resize((32, 32), Image.Resampling.BICUBIC).convert("RGB"))
