"""The numbers and pixels of the validation preprocessing are torchvision's and DALI's."""

from __future__ import annotations

import io
import zlib
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from nvidia.dali import fn, pipeline_def, types
from PIL import Image, PngImagePlugin
from torchvision.transforms.v2 import functional as F

from trainer.dataloader import decoder_options
from trainer.preprocess import crop_corners, resized_sizes, to_rgb

SIDES = st.integers(1, 3000)


@given(st.tuples(SIDES, SIDES), st.integers(1, 300))
def test_sizes_after_the_resize_are_torchvisions(size: tuple[int, int], shorter: int) -> None:
    width, height = size
    theirs = F.resize(torch.empty(1, height, width, device="meta"), [shorter], antialias=True)

    assert resized_sizes(size, shorter).tolist() == [theirs.shape[2], theirs.shape[1]]


@pytest.mark.parametrize("margin", range(7))
def test_the_crops_corner_is_torchvisions(margin: int) -> None:
    columns = torch.arange(8 + margin).expand(1, 8, -1)

    left, top = crop_corners((8 + margin, 8), 8)
    assert (left, top) == (F.center_crop(columns, [8, 8])[0, 0, 0], 0)


def grey16() -> Image.Image:
    return Image.fromarray((np.arange(48 * 64).reshape(48, 64) * 21).astype(np.uint16))


def rgba() -> Image.Image:
    shades = np.linspace(0, 255, 48 * 64).reshape(48, 64).astype(np.uint8)
    return Image.fromarray(np.stack([shades, shades[::-1], 255 - shades, shades[:, ::-1]], axis=-1))


def rgb16() -> bytes:
    """A PNG that Pillow does not write."""
    shades = np.asarray(grey16())
    rows = np.stack([shades, shades[::-1], 65_535 - shades], axis=-1).astype(">u2")
    header = (64).to_bytes(4) + (48).to_bytes(4) + bytes([16, 2, 0, 0, 0])
    chunks = [
        (b"IHDR", header),
        (b"IDAT", zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4) for name, data in chunks
    )


def encoded(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def odd_images() -> dict[str, bytes]:
    colours, texts = rgba().convert("RGB"), PngImagePlugin.PngInfo()
    texts.add_text("a project", "x" * 3_000_000, zip=True)
    palette = colours.quantize(32)
    return {
        "grey": encoded(colours.convert("L"), "PNG"),
        "bits": encoded(colours.convert("1"), "PNG"),
        "grey of 16 bits": encoded(grey16(), "PNG"),
        "colours of 16 bits": rgb16(),
        "palette": encoded(palette, "PNG"),
        "palette of 4 bits": encoded(colours.quantize(16), "PNG", bits=4),
        "palette with a transparent colour": encoded(palette, "PNG", transparency=3),
        "palette with transparencies": encoded(palette, "PNG", transparency=bytes(range(32))),
        "alpha": encoded(rgba(), "PNG"),
        "grey with alpha": encoded(rgba().convert("LA"), "PNG"),
        "texts of megabytes": encoded(colours, "PNG", pnginfo=texts),
        "grey JPEG": encoded(colours.convert("L"), "JPEG"),
        "CMYK JPEG": encoded(colours.convert("CMYK"), "JPEG"),
    }


def dalis_pixels(data: bytes) -> npt.NDArray[np.uint8]:
    @pipeline_def(batch_size=1, num_threads=1, device_id=None)  # type: ignore[untyped-decorator, call-overload]
    def decoding() -> Any:
        encoded = fn.external_source(source=[[np.frombuffer(data, np.uint8)]])
        return fn.decoders.image(
            encoded, output_type=types.RGB, adjust_orientation=False, **decoder_options("cpu")
        )

    (decoded,) = decoding().run()
    return np.array(decoded.at(0))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("kind", odd_images())
def test_pillow_makes_the_pixels_that_dali_makes(kind: str) -> None:
    data = odd_images()[kind]
    theirs = dalis_pixels(data)
    with Image.open(io.BytesIO(data)) as image:
        ours = np.asarray(to_rgb(image))

    assert np.abs(ours.astype(np.int16) - theirs).max() <= 1
    assert ours.std() > 20, "an even area would prove nothing"
