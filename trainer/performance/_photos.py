"""Photos to measure with, where there is no data set: of ImageNet's sizes, in pixels and in bytes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL.Image import Image

from trainer.dataset import Dataset, folder, open_dataset, prepare

DISTINCT = 200  # photos; a sample of more repeats them
# Width, height, and how many of 100: most of ImageNet's come from Flickr, whose medium size had a longer side of 500.
SIZES = (
    (500, 375, 54), (375, 500, 16), (500, 333, 11), (333, 500, 5), (500, 500, 3),
    (400, 300, 3), (300, 225, 3), (250, 250, 2), (1024, 768, 2), (1600, 1200, 1),
)  # fmt: skip
QUALITIES = (95, 98)  # of JPEG, from … to


def sample_photos(count: int) -> list[bytes]:
    """JPEGs, cut out of scikit-learn's two photos; where that is not installed, of colours under noise."""
    luck = np.random.default_rng(0)
    sources = _sources()
    widths, heights, share = np.array(SIZES).T
    made = []
    for index in range(count):
        size = luck.choice(len(SIZES), p=share / share.sum())
        width, height = int(widths[size]), int(heights[size])
        photo = sources[index % len(sources)]
        # As large a part as fits, at its own scale if the photo is large enough.
        scale = min(1.0, photo.width / width, photo.height / height)
        part = round(width * scale), round(height * scale)
        left, top = (
            int(luck.integers(0, whole - of + 1)) for whole, of in zip(photo.size, part, strict=True)
        )
        cut = photo.crop((left, top, left + part[0], top + part[1])).resize((width, height))
        jpeg = io.BytesIO()
        cut.save(jpeg, "JPEG", quality=int(luck.integers(QUALITIES[0], QUALITIES[1] + 1)))
        made.append(jpeg.getvalue())
    return made


def make_sample(root: Path, *, images: int) -> Dataset:
    """Write sample photos to train on under `images` names, and one to validate, and prepare them where they are."""
    photos = sample_photos(min(DISTINCT, images))
    for part, count in (("train", images), ("val", 1)):
        (root / part / "photos").mkdir(parents=True)
        for index in range(count):
            (root / part / "photos" / f"{index:06d}.JPEG").write_bytes(photos[index % len(photos)])
    prepare(folder(root, out=root), root)
    return open_dataset(root)


def _sources() -> list[Image]:
    from PIL.Image import Resampling, fromarray

    try:
        from sklearn.datasets import load_sample_images
    except ImportError:  # a GPU machine may be without it
        luck = np.random.default_rng(1)
        coarse = fromarray(luck.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((640, 427), Resampling.BICUBIC), dtype=np.int16)
        noisy = pixels + luck.normal(0, 8, pixels.shape).astype(np.int16)
        return [fromarray(noisy.clip(0, 255).astype(np.uint8))]
    return [fromarray(photo) for photo in load_sample_images().images]
