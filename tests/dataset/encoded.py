"""Encoded images of every kind that a header can claim, sound and damaged."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

WIDTH, HEIGHT = 80, 60


def pixels(seed: int = 0) -> npt.NDArray[np.uint8]:
    """A smooth picture, (HEIGHT, WIDTH, 3)."""
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC))


def encoded(format: str = "JPEG", *, mode: str = "RGB", seed: int = 0, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels(seed)).convert(mode).save(file, format, **options)
    return file.getvalue()


def frame_of(jpeg: bytes) -> int:
    """Where the frame's marker stands."""
    place = 2
    while not (0xC0 <= jpeg[place + 1] <= 0xCF and jpeg[place + 1] not in (0xC4, 0xC8, 0xCC)):
        place += 2 + int.from_bytes(jpeg[place + 2 : place + 4], "big")
    return place


def framed(
    jpeg: bytes, *, sof: int | None = None, bits: int | None = None, sampling: bytes = b"", size: bytes = b""
) -> bytes:
    """The same JPEG with another claim in its frame.

    Args:
        jpeg: a JPEG.
        sof: number of the frame type.
        bits: a colour.
        sampling: factors of each colour, as in 0x21 for 2 across and 1 down.
        size: height and width, two bytes each.
    """
    data, place = bytearray(jpeg), frame_of(jpeg)
    if sof is not None:
        data[place + 1] = 0xC0 + sof
    if bits is not None:
        data[place + 4] = bits
    if size:
        data[place + 5 : place + 9] = size
    for colour, factors in enumerate(sampling):
        data[place + 11 + 3 * colour] = factors
    return bytes(data)


def inserted(jpeg: bytes, extra: bytes, at: int = 20) -> bytes:
    """With more bytes, by default between the first segment and the second."""
    return jpeg[:at] + extra + jpeg[at:]


def lossless(grey: npt.NDArray[np.uint8]) -> bytes:
    """A lossless grey JPEG (SOF3) of each pixel's difference to its left neighbour, Huffman codes of 4 bits."""
    height, width = grey.shape
    before = np.roll(grey, 1, axis=1).astype(int)
    before[1:, 0], before[0, 0] = grey[:-1, 0], 128
    bits = "".join(
        f"{abs(step).bit_length():04b}"
        + (
            f"{step if step > 0 else step + (1 << abs(step).bit_length()) - 1:0{abs(step).bit_length()}b}"
            if step
            else ""
        )
        for step in (grey.astype(int) - before).ravel().tolist()
    )
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\0")
    table = bytes([0, 0, 0, 0, 9, *[0] * 12, *range(9)])

    def segment(marker: int, body: bytes) -> bytes:
        return bytes([0xFF, marker]) + struct.pack(">H", len(body) + 2) + body

    frame = struct.pack(">BHHB", 8, height, width, 1) + b"\x01\x11\0"
    return (
        b"\xff\xd8"
        + segment(0xC3, frame)
        + segment(0xC4, table)
        + segment(0xDA, b"\x01\x01\0\x01\0\0")
        + scan
        + b"\xff\xd9"
    )


def chunk(tag: bytes, body: bytes) -> bytes:
    """A chunk of a PNG."""
    return struct.pack(">I", len(body)) + tag + body + struct.pack(">I", zlib.crc32(tag + body))


def with_text(png: bytes, *, behind: bool) -> bytes:
    """A PNG with a text that grows to three megabytes, before or behind its pixels."""
    text = chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(3_000_000)))
    at = len(png) - 12 if behind else 33
    return png[:at] + text + png[at:]


def webp_with_exif() -> bytes:
    return encoded("WEBP", mode="RGBA", exif=Image.Exif().tobytes())


FRAMES = (0, 1, 2, 3, 5, 6, 7, 9, 10, 11, 13, 14, 15)
SAMPLINGS = [bytes([across * 16 + down, 0x11, 0x11]) for across in range(5) for down in range(5)] + [
    b"\x11\x21\x11",
    b"\x22\x21\x11",
    b"\x32\x21\x21",
    b"\x22\x22\x22",
    b"\x11\x22\x22",
]


def all_kinds() -> Iterator[tuple[str, bytes]]:
    """Names and contents: every frame type, 2 to 17 bits, every sampling, formats, and odd segments."""
    baseline, progressive = encoded(quality=95), encoded(progressive=True)
    for number in FRAMES:
        for name, source in (
            ("baseline", baseline),
            ("progressive", progressive),
            ("grey", encoded(mode="L")),
        ):
            yield f"sof{number}-{name}.jpg", framed(source, sof=number)
            for bits in (2, 12, 16):
                yield f"sof{number}-{name}-{bits}.jpg", framed(source, sof=number, bits=bits)
    for sampling in SAMPLINGS:
        yield f"sampling-{sampling.hex()}.jpg", framed(baseline, sampling=sampling)
    for subsampling in (0, 1, 2):
        yield f"subsampling-{subsampling}.jpg", encoded(subsampling=subsampling)
    yield "grey-2x2.jpg", framed(encoded(mode="L"), sampling=b"\x22")
    yield "cmyk.jpg", encoded(mode="CMYK")
    for bits in (7, 9, 10, 17):
        yield f"bits-{bits}.jpg", framed(baseline, bits=bits)
    yield "lossless.jpg", lossless(pixels()[:, :, 0])
    yield "lossless-64.jpg", lossless(np.random.default_rng(0).integers(0, 256, (64, 64), np.uint8))
    for name, segment in SEGMENTS.items():
        yield f"segment-{name}.jpg", inserted(baseline, segment)
    yield "zeros.jpg", bytes(3000)
    yield "half.jpg", baseline[: len(baseline) // 2]
    yield "header.jpg", baseline[:200]
    for mode in ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"):
        yield f"{mode.replace(';', '-')}.png", encoded("PNG", mode=mode) if mode != "I;16" else sixteen_bits()
    for cut in (1, 4, 8, 12, 60):
        yield f"cut-{cut}.png", encoded("PNG")[:-cut]
    yield "text.png", with_text(encoded("PNG"), behind=False)
    yield "text-behind.png", with_text(encoded("PNG"), behind=True)
    yield "exif.png", inserted(encoded("PNG"), struct.pack(">I", 2**31 - 1) + b"eXIf", at=33)


SEGMENTS = {
    "garbage": b"\0garbage",
    "fill": b"\xff\xff\xff",
    "zero": b"\xff\0",
    "restart": b"\xff\xd0",
    "second-start": b"\xff\xd8",
    "no-length": b"\xff\xfe\0\0",
    "exif-without-length": b"\xff\xe1\0\x04Exif\0\0",
    "exif-garbage": b"\xff\xe1\0\x28Exif\0\0" + bytes(range(32)),
    "adobe-short": b"\xff\xee\0\x04Ad",
}


def sixteen_bits() -> bytes:
    """A grey PNG of 16 bits."""
    file = io.BytesIO()
    Image.fromarray(pixels()[:, :, 0].astype(np.uint16) * 257).save(file, "PNG")
    return file.getvalue()


Change = Callable[[bytes], bytes]
DAMAGE: dict[str, Change] = {  # that leaves the length as it is, but for "cut"
    "zeros": lambda data: bytes(len(data)),
    "garbage": lambda data: inserted(data, b"\0garbage")[: len(data)],
    "cut": lambda data: data[: len(data) * 2 // 3],
    "other": lambda data: encoded(seed=999).ljust(len(data), b"\0")[: len(data)],
    "text": lambda data: (b"no image " * len(data))[: len(data)],
    "hole": lambda data: data[: len(data) // 2] + bytes(len(data) - len(data) // 2),
}
