"""A check that every image of a data set decodes, before a training run finds out.

libjpeg-turbo decodes each JPEG in its strict mode, at an eighth of its size: all of the file is read, and
only arithmetic on pixels is saved. It finds every damage at which DALI's decoder stops, and damage that DALI
and Pillow accept without a warning (docs/decisions/0005). DALI's decoder, which is the one that trains, then
decodes each file that is not a plain JPEG or had a warning.
"""

# mypy: disable-error-code="attr-defined,untyped-decorator,call-overload,no-untyped-call"

from __future__ import annotations

import io
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg
from nvidia.dali import fn, pipeline_def, types

from trainer.dataset import Dataset, Finding, Split, in_threads

PLAIN = ("YCbCr", "Gray")  # colour spaces of ordinary JPEGs
CLOSE = 2.0  # mean difference of pixels (of 255) up to which two decoders agree


def check_decoding(
    dataset: Dataset, *, progress: Callable[[int], None] = lambda _: None
) -> Iterator[Finding]:
    """Decode every image; yield a finding for each image that is damaged, or unusual but handled.

    Args:
        dataset: the opened data set.
        progress: called with the number of images decoded since the last call.
    """
    doubtful: list[tuple[Split, int, Finding]] = []

    def look(split: Split, indices: range) -> Iterator[Finding]:
        for index in indices:
            finding = _decode(split, index)
            if finding is not None and finding.kind != "bad":
                doubtful.append((split, index, finding))
            elif finding is not None:
                yield finding

    yield from in_threads(dataset, look, progress, batch=64)
    doubtful.sort(key=lambda one: one[2].path)
    with ImageDecoder() as dali:
        for split, index, finding in doubtful:
            yield _second_opinion(dali, split.path(index).read_bytes(), finding)


def _decode(split: Split, index: int) -> Finding | None:
    """What libjpeg-turbo finds in one image; None if it is an undamaged plain JPEG."""
    name, row = split.name(index), split.rows[index]
    try:
        data = split.path(index).read_bytes()
    except OSError as error:
        return Finding(name, "bad", f"cannot be read: {error.strerror}")
    if len(data) != row["bytes"] or zlib.crc32(data) != row["crc32"]:
        return Finding(name, "bad", "has changed since it was prepared: its checksum differs")
    if not data.startswith(b"\xff\xd8"):
        return Finding(name, "handled", "PNG, not JPEG")
    try:
        _, _, colours, _ = simplejpeg.decode_jpeg_header(data)
        if colours not in PLAIN:
            return Finding(name, "handled", f"colours stored as {colours}")
        simplejpeg.decode_jpeg(
            data, "GRAY", fastdct=True, min_height=1, min_width=1, min_factor=8, strict=True
        )
    except ValueError as error:
        return Finding(name, "warned", str(error))
    return (
        Finding(name, "handled", "has an EXIF rotation, which is not applied") if _is_rotated(data) else None
    )


def _is_rotated(data: bytes) -> bool:
    if b"Exif\0\0" not in data[:4096]:
        return False
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return bool(image.getexif().get(0x0112, 1) != 1)
    except (OSError, SyntaxError, ValueError):
        return False  # broken EXIF data rotates nothing


def _second_opinion(dali: ImageDecoder, data: bytes, finding: Finding) -> Finding:
    """The finding after DALI's decoder, the one that trains, has decoded a doubtful file as well."""
    ours = dali.decode(data)
    if ours is None:
        return finding._replace(kind="bad", reason=f"cannot be decoded: {finding.reason}")
    if finding.kind == "warned":
        return finding._replace(reason=f"decodes, but is damaged: {finding.reason}")
    theirs = _pillow(data)
    if theirs is None or theirs.shape != ours.shape:
        return finding._replace(
            kind="bad", reason=f"{finding.reason}; Pillow does not decode it to the same image"
        )
    difference = float(np.abs(ours.astype(np.int16) - theirs).mean())
    if difference > CLOSE:
        return finding._replace(
            kind="bad", reason=f"{finding.reason}; decoders differ by {difference:.1f} of 255"
        )
    return finding


def _pillow(data: bytes) -> npt.NDArray[np.uint8] | None:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


class ImageDecoder:
    """DALI's decoder for one image at a time, with the options of the training pipeline."""

    def __enter__(self) -> ImageDecoder:
        self._pipeline: Any = None
        return self

    def __exit__(self, *_: object) -> None:
        self._pipeline = None

    def decode(self, data: bytes) -> npt.NDArray[np.uint8] | None:
        """Pixels (H, W, 3), or None if DALI cannot decode the file."""
        with _quiet():
            try:
                self._pipeline = self._pipeline or _single_image_pipeline(
                    batch_size=1, num_threads=1, device_id=None, prefetch_queue_depth=1
                )
                self._pipeline.feed_input("encoded", [np.frombuffer(data, np.uint8)])
                (decoded,) = self._pipeline.run()
                return np.array(decoded.at(0))
            except RuntimeError:
                self._pipeline = None  # DALI's pipelines do not work after an error
                return None


@pipeline_def
def _single_image_pipeline() -> Any:
    encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
    return fn.decoders.image(encoded, device="cpu", output_type=types.RGB, adjust_orientation=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Discard what libjpeg and nvImageCodec write to standard error; the finding names the file instead."""
    stderr = os.dup(2)
    devnull = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(devnull, 2)
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
        os.close(devnull)
