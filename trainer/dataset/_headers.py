"""What the header of an encoded image says, read as strictly as by the decoder that trains.

DALI parses headers with nvImageCodec before it decodes. A header that its parser refuses may end the process by a
signal instead of an error (docs/decisions/0010), and what it takes its decoders may still not know. So both are
told here, by name and before DALI sees a byte: in `prepare`, in `check`, and in the threads that read for training.

Source: nvImageCodec's src/parsers/ (jpeg.cpp, png.cpp, webp.cpp); ITU-T T.81; the PNG and WebP formats.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from typing import Literal, NamedTuple

Data = bytes | memoryview

FRAMES = {  # by SOF number (T.81, table B.1)
    0: "baseline",
    1: "extended",
    2: "progressive",
    3: "lossless",
    5: "hierarchical",
    6: "hierarchical progressive",
    7: "hierarchical lossless",
    9: "arithmetic-coded",
    10: "arithmetic-coded progressive",
    11: "arithmetic-coded lossless",
    13: "arithmetic-coded hierarchical",
    14: "arithmetic-coded hierarchical progressive",
    15: "arithmetic-coded hierarchical lossless",
}
DECODED = (0, 1, 2, 9, 10)  # frames that libjpeg-turbo decodes whole, as DALI uses it
PLAIN_FRAMES = (0, 1, 2)  # … and that every JPEG decoder knows, …
PLAIN_SAMPLING = (
    b"\x11\x11\x11",
    b"\x21\x11\x11",
    b"\x22\x11\x11",
    b"\x12\x11\x11",
    b"\x41\x11\x11",
    b"\x11",
)
MOST_BLOCKS = 10  # of a JPEG's smallest unit (T.81, B.2.3)

PNG = b"\x89PNG\r\n\x1a\n"
PNG_DEPTHS = {0: (1, 2, 4, 8, 16), 2: (8, 16), 3: (1, 2, 4, 8), 4: (8, 16), 6: (8, 16)}  # bits by colour type
WEBP = "WebP, not JPEG"

OTHERS = {  # formats that are named when they are refused, by their first bytes
    b"BM": "BMP",  # its palettes take DALI's parser down by SIGSEGV
    b"GIF8": "GIF",
    b"II*\0": "TIFF",
    b"MM\0*": "TIFF",
    b"\0\0\0\x0cjP  ": "JPEG 2000",
    b"\xff\x4f\xff\x51": "JPEG 2000",
    b"\0\0\0\x0cJXL ": "JPEG XL",
    b"\xff\x0a": "JPEG XL",
    b"8BPS": "Photoshop file",
    b"%PDF": "PDF",
    b"version https://": "Git LFS pointer, not the file itself (git lfs pull fetches it)",
    b"<!DOCTYPE": "web page",
    b"<!doctype": "web page",
    b"<html": "web page",
    b"<svg": "SVG",
    b"<?xml": "XML file",
}
HEIF = (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftypavif")  # at byte 4


class Header(NamedTuple):
    """What the header of a usable image says."""

    format: Literal["JPEG", "PNG", "WebP"]
    width: int  # pixels
    height: int
    unusual: str = ""  # what tells it from the JPEGs that every decoder knows; simplejpeg is given no others


class Refused(ValueError):
    """The reason why an image is not usable, as the rest of a sentence that begins with its name."""


def read_header(data: Data) -> Header:
    """What the header of an encoded image says.

    Raises: Refused if there is none that DALI reads, or a kind of image that it does not decode.
    """
    first = bytes(data[:16])
    read = next((read for signature, read in READERS.items() if first.startswith(signature)), None)
    if read is None:
        raise Refused(_stranger(first))
    try:
        header = read(data)
    except (IndexError, struct.error):
        raise Refused("ends within its header") from None
    if not header.width or not header.height:
        raise Refused("has no size in its header")
    return header


def is_image(first: bytes) -> bool:
    """Whether a file that begins so, with 16 bytes or more, is of a format that is decoded."""
    return first.startswith(tuple(READERS)) and (first[:4] != b"RIFF" or first[8:12] == b"WEBP")


def without_texts(data: bytes) -> bytes:
    """A PNG without texts and colour profile: small ones may grow to gigabytes, and Pillow refuses any over a megabyte.

    Args:
        data: any encoded image whose header can be read; those that are no PNG stay as they are.
    """
    if not data.startswith(PNG):
        return data
    kept, place = [data[:8]], 8
    while place < len(data):
        size, tag = struct.unpack_from(">I4s", data, place)
        if tag not in (b"tEXt", b"zTXt", b"iTXt", b"iCCP"):
            kept.append(data[place : place + 12 + size])
        place += 12 + size if tag != b"IEND" else len(data)
    return b"".join(kept)


def _stranger(first: bytes) -> str:
    if not any(first):
        return "is no image: it begins with zeros" if first else "is empty"
    for signature, name in OTHERS.items():
        if first.startswith(signature):
            return f"is a {name}; only JPEG, PNG and WebP are decoded"
    if first[4:12] in HEIF:
        return "is a HEIC or AVIF; only JPEG, PNG and WebP are decoded"
    return "is no JPEG, PNG or WebP"


def _jpeg(data: Data) -> Header:
    """Walk the segments up to the first scan."""
    frame: Header | None = None
    place = 2
    while True:
        if data[place] != 0xFF:
            raise Refused(f"has stray bytes between the segments of its header, at byte {place}")
        marker = data[place + 1]
        place += 2
        while marker == 0xFF:  # any number of fill bytes
            marker = data[place]
            place += 1
        if marker == 0xDA:
            break
        # Without a length: parsers do not agree on what follows.
        if marker <= 0x01 or 0xD0 <= marker <= 0xD9:
            raise Refused(f"has a marker {marker:02X} in its header, at byte {place - 1}")
        length = data[place] << 8 | data[place + 1]
        if length < 2 or (marker == 0xE1 and length < 8 and data[place + 2 : place + 8] == b"Exif\0\0"):
            raise Refused(f"has a segment without its length in its header, at byte {place - 1}")
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            if frame is not None:
                raise Refused("has a second frame in its header")
            frame = _jpeg_frame(data, place, length, marker - 0xC0)
        place += length
    if frame is None:
        raise Refused("has no size in its header")
    return frame


def _jpeg_frame(data: Data, place: int, length: int, number: int) -> Header:
    precision, height, width, components = struct.unpack_from(">BHHB", data, place + 2)
    if number not in DECODED:
        raise Refused(f"is a JPEG of the kind SOF{number} ({FRAMES[number]}), which DALI does not decode")
    if precision != 8:
        raise Refused(f"is a JPEG of {precision} bits a colour; DALI decodes those of 8")
    if components not in (1, 3, 4) or length != 8 + 3 * components:
        raise Refused(f"is a JPEG of {components} colours; DALI decodes those of 1, 3 and 4")
    sampling = bytes(data[place + 9 : place + 8 + 3 * components : 3])
    if len(sampling) < components:
        raise IndexError
    factors = [divmod(one, 16) for one in sampling]
    most = [max(sides) for sides in zip(*factors, strict=True)]
    if (
        not all(
            1 <= side <= 4 and large % side == 0
            for pair in factors
            for side, large in zip(pair, most, strict=True)
        )
        or sum(across * down for across, down in factors) > MOST_BLOCKS
    ):
        raise Refused(f"is a JPEG with sampling factors that DALI does not decode ({sampling.hex(' ')})")
    unusual = ""
    if components == 4:
        unusual = "colours stored as CMYK"
    elif number not in PLAIN_FRAMES:
        unusual = f"{FRAMES[number]} JPEG"
    elif sampling not in PLAIN_SAMPLING:
        unusual = f"sampling factors {sampling.hex(' ')}"
    return Header("JPEG", width, height, unusual)


def _png(data: Data) -> Header:
    """Look at the first chunk, and walk the others up to the last."""
    size, tag, width, height, depth, colours = struct.unpack_from(">I4sIIBB", data, 8)
    (checksum,) = struct.unpack_from(">I", data, 29)
    if (size, tag) != (13, b"IHDR") or zlib.crc32(data[12:29]) != checksum:
        raise Refused("is a PNG with a damaged header")
    if depth not in PNG_DEPTHS.get(colours, ()):
        raise Refused(f"is a PNG of colour type {colours} with {depth} bits, which there is not")
    place = 8
    while tag != b"IEND":
        size, tag = struct.unpack_from(">I4s", data, place)
        place += 12 + size
        if place > len(data):
            raise Refused("is a PNG that ends early")
    return Header("PNG", width, height, "PNG, not JPEG")


def _webp(data: Data) -> Header:
    kind, tag, size = struct.unpack_from("<4s4sI", data, 8)
    if kind != b"WEBP":
        raise Refused("is no JPEG, PNG or WebP")
    if tag == b"VP8 ":
        sync, width, height = struct.unpack_from("<3sHH", data, 23)
        if sync != b"\x9d\x01\x2a":
            raise Refused("is a damaged WebP")
        return Header("WebP", width & 0x3FFF, height & 0x3FFF, WEBP)
    if tag == b"VP8L":
        sign, bits = struct.unpack_from("<BI", data, 20)
        if sign != 0x2F:
            raise Refused("is a damaged WebP")
        return Header("WebP", (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1, WEBP)
    if tag != b"VP8X":
        raise Refused("is a damaged WebP")
    flags, width, height = struct.unpack_from("<B3x3s3s", data, 20)
    if flags & 0x02:
        raise Refused("is an animated WebP")
    place = 20 + size
    while flags & 0x08 and tag != b"EXIF":  # DALI looks for it, and does not know that chunks are padded
        tag, size = struct.unpack_from("<4sI", data, place)
        place += 8 + size
        if place > len(data):
            raise Refused("is a WebP whose EXIF data DALI does not find; store it without")
    return Header("WebP", int.from_bytes(width, "little") + 1, int.from_bytes(height, "little") + 1, WEBP)


READERS: dict[bytes, Callable[[Data], Header]] = {  # by an image's first bytes
    b"\xff\xd8": _jpeg,
    PNG: _png,
    b"RIFF": _webp,
}
