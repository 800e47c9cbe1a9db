"""The handwritten digits in scikit-learn, as JPEGs: a first data set that needs no download.

Source: UCI "Optical Recognition of Handwritten Digits", via sklearn.datasets.load_digits.
"""

from __future__ import annotations

import io
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

from trainer.dataset._manifest import SPLITS
from trainer.dataset._source import Source, SourceImage
from trainer.dataset.forms._form import Fetch, Form, no_arguments

UPSCALE = 4  # 8 x 8 pixels become 32 x 32: JPEG works in blocks of 8


def digits() -> Source:
    """1,437 training and 360 validation digits, stratified by class, 32 x 32 pixels."""
    return Source(name="digits", images=_images, bytes=2**21)


def _images() -> Iterator[SourceImage]:
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    loaded = load_digits()
    shades, labels = loaded.images, loaded.target  # (1797, 8, 8) in 0..16, (1797,)
    indices = train_test_split(range(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    for split, chosen in zip(SPLITS, indices, strict=True):
        for index in chosen:
            small = Image.fromarray((shades[index] * (255 / 16)).round().astype("uint8"))
            side = small.width * UPSCALE
            jpeg = io.BytesIO()
            small.resize((side, side), Image.Resampling.BICUBIC).convert("RGB").save(jpeg, "JPEG", quality=95)
            digit = str(labels[index])
            path = f"{split}/{digit}/{index:04d}.jpeg"
            yield SourceImage(split, digit, path, jpeg.tell(), jpeg.getvalue)


def _source(options: Namespace, out: Path, fetch: Fetch) -> Source:
    return digits()


FORM = Form(
    name="digits",
    help="scikit-learn's 1,797 handwritten digits",
    example="digits --out data/digits",
    add_arguments=no_arguments,
    identity=lambda options: ("digits", {}),
    source=_source,
    resizable=False,
)
