"""What headers say, and which are refused."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tests.dataset.encoded import (
    DAMAGE,
    FRAMES,
    HEIGHT,
    SEGMENTS,
    WIDTH,
    all_kinds,
    chunk,
    encoded,
    framed,
    inserted,
    lossless,
    pixels,
    webp_with_exif,
    with_text,
)
from trainer.dataset import Header, Refused, read_header, without_texts
from trainer.dataset._images import image_size

BASELINE = encoded()


def reason(data: bytes) -> str:
    """Why it is refused; nothing if it is not."""
    try:
        read_header(data)
    except Refused as refused:
        return str(refused)
    return ""


@pytest.mark.parametrize("number", FRAMES)
def test_a_frame_type_is_decoded_or_refused_by_its_name(number: int) -> None:
    data = framed(BASELINE, sof=number)

    if number in (0, 1, 2):
        assert read_header(data) == Header("JPEG", WIDTH, HEIGHT)
    elif number in (9, 10):
        assert "arithmetic" in read_header(data).unusual
    else:
        assert f"is a JPEG of the kind SOF{number} (" in reason(data)


@pytest.mark.parametrize("bits", [2, 7, 9, 12, 16])
def test_a_jpeg_of_more_or_less_than_8_bits_is_refused(bits: int) -> None:
    assert (
        reason(framed(BASELINE, bits=bits)) == f"is a JPEG of {bits} bits a colour; DALI decodes those of 8"
    )


def test_a_lossless_jpeg_is_refused_by_its_name() -> None:
    with Image.open(io.BytesIO(lossless(pixels()[:, :, 0]))) as image:
        assert image.size == (WIDTH, HEIGHT)
    assert "SOF3 (lossless)" in reason(lossless(pixels()[:, :, 0]))


@pytest.mark.parametrize("sampling", ["11", "21", "22", "12", "41", "14", "42", "24", "13", "31"])
def test_every_sampling_of_the_standard_is_taken(sampling: str) -> None:
    """4:4:1 made `prepare` fail for ever; 4:1:0 and the others are as valid."""
    header = read_header(framed(BASELINE, sampling=bytes.fromhex(sampling + "1111")))

    assert (header.width, header.height) == (WIDTH, HEIGHT)
    assert bool(header.unusual) == (sampling not in ("11", "21", "22", "12", "41"))


@pytest.mark.parametrize("sampling", ["331111", "441111", "322121", "011111", "511111"])
def test_a_sampling_that_libjpeg_does_not_decode_is_refused(sampling: str) -> None:
    assert "sampling factors" in reason(framed(BASELINE, sampling=bytes.fromhex(sampling)))


@pytest.mark.parametrize("name", SEGMENTS)
def test_a_header_is_walked_as_strictly_as_by_dali(name: str) -> None:
    """libjpeg and Pillow read over stray bytes; DALI's parser does not, and then dies in some of its runs."""
    refused = reason(inserted(BASELINE, SEGMENTS[name]))

    assert bool(refused) == (name not in ("fill", "exif-garbage", "adobe-short")), refused


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (bytes(3000), "is no image: it begins with zeros"),
        (BASELINE[:20] + bytes(3000), "has stray bytes between the segments of its header, at byte 20"),
        (BASELINE[:200], "ends within its header"),
        (inserted(BASELINE, b"\xff\xd0\0\2"), "has a marker D0 in its header, at byte 21"),
        (framed(BASELINE, size=b"\0\0\0\x50"), "has no size in its header"),
        (encoded("PNG")[:-1], "is a PNG that ends early"),
        (encoded("PNG")[:-20], "is a PNG that ends early"),
        (inserted(encoded("PNG"), b"garbage!", at=33), "is a PNG that ends early"),
        (encoded("PNG").replace(b"IHDR", b"IHDX"), "is a PNG with a damaged header"),
        (encoded("TIFF"), "is a TIFF; only JPEG, PNG and WebP are decoded"),
        (encoded("BMP"), "is a BMP; only JPEG, PNG and WebP are decoded"),
        (encoded("WEBP", save_all=True, append_images=[Image.new("RGB", (80, 60))]), "is an animated WebP"),
        (b"no image", "is no JPEG, PNG or WebP"),
    ],
)
def test_what_is_no_usable_image_is_refused_with_the_reason(data: bytes, said: str) -> None:
    assert reason(data) == said


@pytest.mark.parametrize(
    "data",
    [
        encoded("PNG", mode="P"),
        with_text(encoded("PNG"), behind=False),
        with_text(encoded("PNG"), behind=True),
        encoded("WEBP"),
        encoded("WEBP", lossless=True),
        webp_with_exif(),
    ],
    ids=["palette", "text", "text behind", "lossy", "lossless", "exif"],
)
def test_png_and_webp_have_the_size_of_their_header(data: bytes) -> None:
    assert image_size(data) == (WIDTH, HEIGHT)


@pytest.mark.parametrize("size", [(65000, 1), (1, 65000), (1, 101)])
def test_a_strip_is_left_out(size: tuple[int, int]) -> None:
    """Of a few hundred bytes, resizing its shorter side to 256 pixels makes 17 million of them, 14 GB in all."""
    file = io.BytesIO()
    Image.new("L", size).save(file, "PNG")

    assert image_size(file.getvalue()) == (
        f"is a strip of {size[0]} x {size[1]} pixels, more than 100 times as long as wide"
    )


def test_texts_and_colour_profiles_of_a_png_can_be_left_out() -> None:
    plain = encoded("PNG")
    for png in (with_text(plain, behind=False), with_text(plain, behind=True)):
        assert without_texts(png) == plain
    assert without_texts(inserted(plain, chunk(b"iCCP", b"x\0\0"), at=33)) == plain
    assert without_texts(BASELINE) == BASELINE


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([data for _, data in all_kinds()]), st.data())
def test_no_header_makes_a_traceback(data: bytes, draw: st.DataObject) -> None:
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        place = draw.draw(st.integers(0, min(700, len(data) - 1)))
        damaged[place : place + draw.draw(st.integers(0, 9))] = draw.draw(st.binary(max_size=9))

    assert isinstance(image_size(bytes(damaged)), str | tuple)
    assert isinstance(image_size(memoryview(np.frombuffer(bytes(damaged), np.uint8))), str | tuple)


def test_damage_keeps_the_length() -> None:
    for name, change in DAMAGE.items():
        assert (len(change(BASELINE)) == len(BASELINE)) == (name != "cut")


@pytest.mark.parametrize(
    ("first", "says"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><title>Log in", "web page"),
        (b"\0\0\0\x18ftypheic\0\0\0\0", "HEIC"),
    ],
)
def test_what_is_often_stored_under_an_images_name_is_named(first: bytes, says: str) -> None:
    with pytest.raises(Refused, match=says):
        read_header(first)
