"""Generated photos for measurements without a data set: of ImageNet's sizes, in pixels and in bytes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL.Image import Image

from trainer.dataset import Dataset, Split, folder, open_dataset, prepare

DISTINCT = 200  # photos; larger samples repeat them
# Width, height, and how many of 100 photos: most of ImageNet's come from Flickr, whose medium size had a longer side
# of 500 pixels.
SIZES = (
    (500, 375, 54),
    (375, 500, 16),
    (500, 333, 11),
    (333, 500, 5),
    (500, 500, 3),
    (400, 300, 3),
    (300, 225, 3),
    (250, 250, 2),
    (1024, 768, 2),
    (1600, 1200, 1),
)
JPEG_QUALITIES = (95, 98)  # lowest and highest


def sample_photos(count: int) -> list[bytes]:
    """Encoded JPEGs, cropped from scikit-learn's two photos; from colour gradients with noise without it."""
    rng = np.random.default_rng(0)
    sources = _sources()
    widths, heights, share = np.array(SIZES).T
    photos = []
    for index in range(count):
        size = rng.choice(len(SIZES), p=share / share.sum())
        width, height = int(widths[size]), int(heights[size])
        source = sources[index % len(sources)]
        # The largest crop of that aspect ratio, without magnification where the source is large enough.
        scale = min(1.0, source.width / width, source.height / height)
        crop = round(width * scale), round(height * scale)
        left, top = (
            int(rng.integers(0, side - length + 1)) for side, length in zip(source.size, crop, strict=True)
        )
        photo = source.crop((left, top, left + crop[0], top + crop[1])).resize((width, height))
        jpeg = io.BytesIO()
        photo.save(jpeg, "JPEG", quality=int(rng.integers(JPEG_QUALITIES[0], JPEG_QUALITIES[1] + 1)))
        photos.append(jpeg.getvalue())
    return photos


def make_sample(root: Path, *, images: int) -> Dataset:
    """Write generated photos as a prepared data set: `images` for training and one for validation."""
    photos = sample_photos(min(DISTINCT, images))
    for split, count in (("train", images), ("val", 1)):
        (root / split / "photos").mkdir(parents=True)
        for index in range(count):
            (root / split / "photos" / f"{index:06d}.JPEG").write_bytes(photos[index % len(photos)])
    prepare(folder(root, out=root), root)
    return open_dataset(root)


def repeat_images(split: Split, count: int) -> Split:
    """A split of exactly `count` images: those of `split`, repeated as often as needed."""
    return split.take(np.arange(count) % len(split))


def _sources() -> list[Image]:
    from PIL.Image import Resampling, fromarray

    try:
        from sklearn.datasets import load_sample_images
    except ImportError:  # a GPU machine may be without it
        rng = np.random.default_rng(1)
        coarse = fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        pixels = np.asarray(coarse.resize((640, 427), Resampling.BICUBIC), dtype=np.int16)
        noisy = pixels + rng.normal(0, 8, pixels.shape).astype(np.int16)
        return [fromarray(noisy.clip(0, 255).astype(np.uint8))]
    return [fromarray(photo) for photo in load_sample_images().images]
