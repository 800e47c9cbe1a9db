"""Whether an image decodes, and to what: the program of `_child`, which may die of it.

    python -P _decoding.py check|cpu|mixed|mixed-huffman

It reads requests from standard input, a line of JSON each, and answers each with a line. It is started by its path,
so that it does not wait for torch.
"""

# mypy: disable-error-code="attr-defined,untyped-decorator,call-overload,no-untyped-call"

from __future__ import annotations

import io
import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import numpy.typing as npt
import simplejpeg
from isal import isal_zlib

from trainer.dataset import Refused, read_header, without_texts
from trainer.files import read_regular
from trainer.preprocess import to_rgb

PLAIN = ("YCbCr", "Gray")  # colour spaces of ordinary JPEGs
CLOSE = 2.0  # mean difference of pixels (of 255) up to which two decoders agree
REASON = 300  # characters of a reason: the answers of a chunk must fit into a pipe

Verdict = tuple[str, str]  # kind and reason of a finding


def main(work: str, requests: TextIO, answers: TextIO) -> None:
    """Answer requests until there are no more.

    Args:
        work: "check" for `judge`, or the decoder for `reason_against`.
        requests: a line each.
        answers: where the answers go.
    """
    decoder = ImageDecoder(options={"device": "cpu"} if work in ("check", "cpu") else _options(work))
    print("ready", file=answers, flush=True)
    for line in requests:
        request = json.loads(line)
        answer = judge(decoder, *request) if work == "check" else reason_against(decoder, *request)
        print(json.dumps(answer), file=answers, flush=True)


def reason_against(decoder: ImageDecoder, path: str) -> str | None:
    """Why an image is not decoded; None if it is."""
    try:
        data = read_regular(Path(path))
        read_header(data)
    except OSError as error:
        return f"it cannot be read: {error.strerror}"
    except Refused as reason:
        return f"it {reason}"
    return None if decoder.decode(data) is not None else _reason(data)


def judge(decoder: ImageDecoder, path: str, size: int, crc32: int) -> Verdict | None:
    """What is wrong or unusual with an image; None if it is an undamaged plain JPEG.

    Args:
        decoder: DALI's.
        path: of the image.
        size: of the file in bytes, when it was prepared.
        crc32: of the file then.
    """
    try:
        data = read_regular(Path(path), most=size + 1)
    except OSError as error:
        return "bad", f"cannot be read: {error.strerror}"
    if len(data) != size or isal_zlib.crc32(data) != crc32:
        return "bad", "has changed since it was prepared: its checksum differs"
    try:
        unusual = read_header(data).unusual
    except Refused as reason:
        return "bad", str(reason)
    if unusual:
        return _second_opinion(decoder, data, ("handled", unusual))
    if complaint := _complaint(data):
        return _second_opinion(decoder, data, ("warned", complaint))
    _, _, colours, _ = simplejpeg.decode_jpeg_header(data)
    if colours not in PLAIN:
        return _second_opinion(decoder, data, ("handled", f"colours stored as {colours}"))
    if _is_rotated(data):
        return _second_opinion(decoder, data, ("handled", "has an EXIF rotation, which is not applied"))
    return None


def _complaint(data: bytes) -> str | None:
    """What libjpeg-turbo's strict mode says of a plain JPEG.

    It is asked for no others: of a lossless one it writes all pixels into the room for an eighth of them.
    """
    try:
        simplejpeg.decode_jpeg(
            data, "GRAY", fastdct=True, min_height=1, min_width=1, min_factor=8, strict=True
        )
    except (ValueError, KeyError) as error:
        return str(error)[:REASON]
    return None


def _reason(data: bytes) -> str:
    """Why DALI, which gives no reasons, has not decoded an image whose header is sound."""
    complaint = None if read_header(data).unusual else _complaint(data)
    return complaint or "DALI does not decode it"


def _second_opinion(decoder: ImageDecoder, data: bytes, first: Verdict) -> Verdict:
    """The verdict after DALI's decoder, the one that trains, has decoded a doubtful file as well."""
    kind, reason = first
    ours = decoder.decode(data)
    if ours is None:
        return "bad", f"cannot be decoded{'' if kind == 'warned' else ' by DALI'}: {reason}"
    if kind == "warned":
        return kind, f"decodes, but is damaged: {reason}"
    theirs = _pillow(data)
    if theirs is None or theirs.shape != ours.shape:
        return "bad", f"{reason}; Pillow does not decode it to the same image"
    difference = float(np.abs(ours.astype(np.int16) - theirs).mean())
    if difference > CLOSE:
        return "bad", f"{reason}; decoders differ by {difference:.1f} of 255"
    return first


def _is_rotated(data: bytes) -> bool:
    if b"Exif\0\0" not in data[:4096]:
        return False
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.getexif().get(0x0112) in range(2, 9)
    except (OSError, SyntaxError, ValueError):
        return False  # broken EXIF data rotates nothing


def _pillow(data: bytes) -> npt.NDArray[np.uint8] | None:
    from PIL import Image

    try:
        with Image.open(io.BytesIO(without_texts(data))) as image:
            return np.asarray(to_rgb(image))
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError):
        return None


class ImageDecoder:
    """DALI's decoder for one image at a time, with the options of the training pipeline."""

    def __init__(self, options: dict[str, Any]) -> None:
        self._options = options
        self._pipeline: Any = None

    def decode(self, data: bytes) -> npt.NDArray[np.uint8] | None:
        """Pixels (H, W, 3), or None if DALI cannot decode the file."""
        device = None if self._options["device"] == "cpu" else 0
        try:
            self._pipeline = self._pipeline or _single_image_pipeline(self._options, device)
            self._pipeline.feed_input("encoded", [np.frombuffer(data, np.uint8)])
            (decoded,) = self._pipeline.run()
            return np.array((decoded if device is None else decoded.as_cpu()).at(0))
        except (RuntimeError, MemoryError):
            self._pipeline = None  # DALI's pipelines do not work after an error
            return None


def _single_image_pipeline(options: dict[str, Any], device: int | None) -> Any:
    # Not before: most data sets are plain JPEGs, which are judged without it.
    from nvidia.dali import fn, pipeline_def, types

    @pipeline_def
    def single_image() -> Any:
        encoded = fn.external_source(name="encoded", dtype=types.UINT8, ndim=1)
        return fn.decoders.image(encoded, output_type=types.RGB, adjust_orientation=False, **options)

    return single_image(batch_size=1, num_threads=1, device_id=device, prefetch_queue_depth=1)


def _options(decoder: str) -> dict[str, Any]:
    from trainer.dataloader import decoder_options

    return decoder_options(decoder)  # type: ignore[arg-type]


if __name__ == "__main__":
    warnings.simplefilter("ignore")  # Pillow's name no file
    # Whatever a library prints must not be taken for an answer.
    stdout = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    main(sys.argv[1], sys.stdin, stdout)
