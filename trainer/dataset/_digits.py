"""The handwritten digits that scikit-learn carries, as a source of JPEGs."""

from __future__ import annotations

import io
from collections.abc import Iterator

from trainer.dataset._manifest import Part
from trainer.dataset._preparation import Source, SourceImage

UPSCALE = 4  # 8 x 8 pixels become 32 x 32: JPEG works in blocks of 8


def digits() -> Source:
    """1,437 training and 360 validation digits, stratified by class.

    Source: UCI "Optical Recognition of Handwritten Digits", via sklearn.datasets.load_digits.
    """
    return Source(name="digits", pictures=_pictures, bytes=2**21)


def _pictures() -> Iterator[SourceImage]:
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    loaded = load_digits()
    shades, labels = loaded.images, loaded.target  # (1797, 8, 8) in 0..16, (1797,)
    train, val = train_test_split(range(len(labels)), test_size=0.2, stratify=labels, random_state=0)
    parts: tuple[tuple[Part, list[int]], ...] = (("train", train), ("val", val))
    for part, chosen in parts:
        for index in chosen:
            small = Image.fromarray((shades[index] * (255 / 16)).round().astype("uint8"))
            side = small.width * UPSCALE
            jpeg = io.BytesIO()
            small.resize((side, side), Image.Resampling.BICUBIC).convert("RGB").save(jpeg, "JPEG", quality=95)
            group = str(labels[index])
            yield SourceImage(part, group, f"{part}/{group}/{index:04d}.jpeg", jpeg.tell(), jpeg.getvalue)
