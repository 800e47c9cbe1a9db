"""Hostile and broken archives: named, and nothing written outside."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import struct
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.dataset import published
from tests.dataset.published import jpeg, tar_of, zip_of
from trainer.dataset import _archives, fastai, imagenet, kaggle, prepare
from trainer.dataset._archives import members
from trainer.errors import DataError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

NAME = "imagenette2/train/n01440764/n01440764_1.JPEG"
VAL_NAME = "imagenette2/val/n01440764/n01440764_3.JPEG"
MEMBER = 512 + -(-len(jpeg(1)) // 512) * 512  # bytes of one in the tar


def tar_with(**fields: Any) -> bytes:
    """A tar whose second member is strange; whoever passes it over gets a whole data set."""
    out = io.BytesIO()
    second = NAME.replace("_1", "_2")
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name in (NAME, second, VAL_NAME):
            member = tarfile.TarInfo(name)
            for key, value in fields.items() if name == second else ():
                setattr(member, key, value)
            data = jpeg(1) if member.isreg() else b""
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return out.getvalue()


def with_size(size: int) -> bytes:
    """The second header claims `size` bytes, in base 256, which can be negative."""
    data = bytearray(tar_with())
    second = MEMBER
    data[second + 124 : second + 136] = (
        (size % 256**12).to_bytes(12, "big") if size < 0 else (b"\x80" + size.to_bytes(11, "big"))
    )
    return _with_checksum(data, second)


def _with_checksum(data: bytearray, header: int) -> bytes:
    data[header + 148 : header + 156] = b" " * 8
    data[header + 148 : header + 156] = b"%06o\0 " % sum(data[header : header + 512])
    return bytes(data)


def pax_bomb() -> bytes:
    """An extended header of a terabyte."""
    data = bytearray(tar_of([(NAME, jpeg(1))]))
    data[156:157] = b"x"
    data[124:136] = b"\x80" + (2**40).to_bytes(11, "big")
    return _with_checksum(data, 0)


HOSTILE = {
    "symlink": tar_with(type=tarfile.SYMTYPE, linkname="/etc"),
    "symlink out of the tree": tar_with(type=tarfile.SYMTYPE, linkname="../../../.."),
    "hard link": tar_with(type=tarfile.LNKTYPE, linkname=NAME),
    "character device": tar_with(type=tarfile.CHRTYPE, devmajor=1, devminor=5),
    "block device": tar_with(type=tarfile.BLKTYPE),
    "FIFO": tar_with(type=tarfile.FIFOTYPE),
    "sparse file": tar_with(type=tarfile.GNUTYPE_SPARSE),
    "negative size": with_size(-(2**20)),
    "size of an exabyte": with_size(2**60),
    "pax header of a terabyte": pax_bomb(),
    "cut in a header": tar_with()[: 2 * MEMBER + 100],
    "cut in an image": tar_with()[: 2 * MEMBER + 700],
    "cut between images": tar_with()[: 3 * MEMBER],
    "garbage at the end": tar_with()[: 3 * MEMBER] + b"garbage!" * 640,
    "not an archive": b"<html>please log in</html>" * 100,
    "empty": b"",
}


@pytest.mark.parametrize("packed", [False, True], ids=["tar", "tgz"])
@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_or_broken_tar_is_refused_and_writes_nothing_outside(
    tmp_path: Path, what: str, packed: bool
) -> None:
    archive = tmp_path / "in" / "imagenette2.tgz"
    archive.parent.mkdir()
    archive.write_bytes(gzip.compress(HOSTILE[what]) if packed else HOSTILE[what])
    out = tmp_path / "below" / "out"

    with pytest.raises(DataError, match=r"imagenette2\.tgz"):
        prepare(fastai("imagenette", archive, verify=False), out)

    outside = [path for path in tmp_path.rglob("*") if path.is_file() and not path.is_relative_to(out)]
    assert outside == [archive]
    assert not any(path.is_symlink() for path in out.rglob("*"))
    assert not (out / "dataset.json").exists()


@pytest.mark.parametrize(
    "name",
    [
        "../n01440764_1.JPEG",
        "/imagenette2/train/n01440764/n01440764_1.JPEG",
        "imagenette2/train/n01440764/../../../../x.JPEG",
        "imagenette2/train/n01440764/a\nb.JPEG",
        "imagenette2/train/../n01440764/x.JPEG",
        "imagenette2/train/n01440764/.JPEG/x.JPEG",
    ],
)
def test_a_name_that_is_not_of_the_data_set_is_never_written(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "imagenette2.tgz"
    good = [(f"imagenette2/{split}/n01440764/n01440764_{split}.JPEG", jpeg(1)) for split in ("train", "val")]
    archive.write_bytes(tar_of([*good, (name, jpeg(2))]))

    prepare(fastai("imagenette", archive, verify=False), tmp_path / "out")

    images = [path for path in tmp_path.rglob("*") if path.suffix == ".JPEG"]
    assert len(images) == 2


CPYTHON = [path for name in ("testtar.tar", "recursion.tar") for path in Path(os.__file__).parent.rglob(name)]


@pytest.mark.skipif(not CPYTHON, reason="this Python came without its tests")
@pytest.mark.parametrize("archive", CPYTHON, ids=lambda path: path.name)
def test_cpythons_own_hostile_tars_are_refused(archive: Path) -> None:
    with pytest.raises(DataError, match=archive.name):
        list(members(archive))


def test_a_cut_gzip_is_named(tmp_path: Path) -> None:
    archive = published.fastai(tmp_path)
    archive.write_bytes(archive.read_bytes()[:-2000])

    with pytest.raises(DataError, match=r"320\.tgz"):
        prepare(fastai("imagenette", archive, verify=False), tmp_path / "out")


def test_a_gzip_of_endless_zeros_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_archives, "SLACK", 2**20)
    member = tarfile.TarInfo("imagenette2/notes.txt")
    member.size = 2**27
    archive = tmp_path / "imagenette2.tgz"
    with gzip.open(archive, "wb") as file:
        file.write(member.tobuf())
        file.write(bytes(member.size))

    with pytest.raises(DataError, match="larger inside"):
        list(members(archive))


def zipped(tmp_path: Path, change: Callable[[zipfile.ZipFile], None]) -> Path:
    archive = tmp_path / "kaggle.zip"
    with zipfile.ZipFile(archive, "w") as file:
        change(file)
    return archive


ENTRY = "ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_1.JPEG"


def _symlink(file: zipfile.ZipFile) -> None:
    entry = zipfile.ZipInfo(ENTRY)
    entry.external_attr = 0o120777 << 16
    file.writestr(entry, "/etc/passwd")


def _lzma(file: zipfile.ZipFile) -> None:
    file.writestr(ENTRY, jpeg(1), compress_type=zipfile.ZIP_LZMA)


@pytest.mark.parametrize(("change", "says"), [(_symlink, "no regular file"), (_lzma, "unusual way")])
def test_a_hostile_zip_is_refused(
    tmp_path: Path, change: Callable[[zipfile.ZipFile], None], says: str
) -> None:
    with pytest.raises(DataError, match=says):
        prepare(kaggle(zipped(tmp_path, change)), tmp_path / "out")


def test_a_zip_bomb_is_named_before_anything_is_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_archives, "SLACK", 2**20)
    archive = zipped(tmp_path, lambda file: file.writestr(ENTRY, bytes(2**26), zipfile.ZIP_DEFLATED))

    with pytest.raises(DataError, match="zip bomb"):
        prepare(kaggle(archive), tmp_path / "out")


def test_an_entry_that_lies_about_its_length_is_named(tmp_path: Path) -> None:
    archive = zipped(tmp_path, lambda file: file.writestr(ENTRY, b"\xff\xd8\xff" + bytes(5000)))
    data = archive.read_bytes()
    archive.write_bytes(data.replace(struct.pack("<I", 5003), struct.pack("<I", 9003)))

    with pytest.raises(DataError, match=r"kaggle\.zip"):
        prepare(kaggle(archive), tmp_path / "out")


def test_a_flipped_byte_in_a_zip_is_found_by_its_own_checksum(tmp_path: Path) -> None:
    archive = zipped(tmp_path, lambda file: file.writestr(ENTRY, jpeg(1)))
    data = bytearray(archive.read_bytes())
    data[500] ^= 1
    archive.write_bytes(data)

    with pytest.raises(DataError, match="Bad CRC-32"):
        prepare(kaggle(archive), tmp_path / "out")


def test_an_image_of_a_gigabyte_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_archives, "MAX_MEMBER", 1000)
    with pytest.raises(DataError, match="no image of a data set has more"):
        prepare(imagenet(published.imagenet(tmp_path), verify=False), tmp_path / "out")


COMPRESSED = {
    "unlz4": lambda data: b"\x04\x22\x4d\x18" + data,
    "7-Zip": lambda data: b"7z\xbc\xaf\x27\x1c" + data,
    "cpio": lambda data: b"070707" + data,
    "RAR": lambda data: b"Rar!\x1a\x07" + data,
    "Parquet": lambda data: b"PAR1" + data,
    "web page": lambda data: b"<!DOCTYPE html>" + data,
}


@pytest.mark.parametrize("what", COMPRESSED)
def test_other_kinds_of_files_are_called_by_their_name_with_what_to_do(tmp_path: Path, what: str) -> None:
    path = tmp_path / "x.tar"
    path.write_bytes(COMPRESSED[what](tar_of([(NAME, jpeg(1))])))

    with pytest.raises(DataError, match=what):
        list(members(path))


@pytest.mark.parametrize("packed", [False, True], ids=["tar", "tgz"])
@pytest.mark.parametrize("between", [0, 2**21 + 512], ids=["at once", "after zeros"])
def test_tars_one_behind_the_other_are_read_to_the_end(tmp_path: Path, packed: bool, between: int) -> None:
    tars = [tar_of([(f"{number}.JPEG", jpeg(number))]) for number in range(3)]
    data = bytes(between).join(tars) + b"trailing garbage"
    (tmp_path / "x.tar").write_bytes(gzip.compress(data) if packed else data)

    found = {member.name: bytes(member.read()) for member in members(tmp_path / "x.tar")}
    assert found == {f"{number}.JPEG": jpeg(number) for number in range(3)}


def test_names_come_out_the_same_however_they_were_packed(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(tar_of([("./a/x.JPEG", b"x"), (".//b.JPEG", b"x")]))
    zip_of(tmp_path / "x.zip", [("./a/x.JPEG", b"x"), ("b.JPEG", b"x"), ("w\\c.JPEG", b"x")])

    assert [member.name for member in members(tmp_path / "x.tar")] == ["a/x.JPEG", "b.JPEG"]
    assert [member.name for member in members(tmp_path / "x.zip")] == ["a/x.JPEG", "b.JPEG", "w/c.JPEG"]


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd.compress,
    "several gz": lambda data: gzip.compress(data[:20_000]) + gzip.compress(data[20_000:]),
    "several xz": lambda data: lzma.compress(data[:20_000]) + bytes(8) + lzma.compress(data[20_000:]),
    "several zst": lambda data: zstd.compress(data[:20_000]) + zstd.compress(data[20_000:]),
}


@pytest.mark.parametrize("inside", [None, *COMPRESS])
@pytest.mark.parametrize("outside", [None, *COMPRESS, "zip"])
def test_class_tars_come_out_of_any_packing_of_them_and_of_the_whole(
    tmp_path: Path, inside: str | None, outside: str | None
) -> None:
    train, val = published.imagenet(tmp_path)
    class_tars = [(one.name, bytes(one.read())) for one in members(train)]
    if inside:
        class_tars = [(f"{name}.{inside.split()[-1]}", COMPRESS[inside](data)) for name, data in class_tars]
    if outside == "zip":
        zip_of(tmp_path / "again", class_tars)
    else:
        data = tar_of(class_tars)
        (tmp_path / "again").write_bytes(COMPRESS[outside](data) if outside else data)

    source = imagenet([tmp_path / "again", val], verify=False)
    published.check_images_come_out_byte_for_byte(source, tmp_path / "out")


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
@pytest.mark.parametrize("nested", [False, True], ids=["outer", "inner"])
def test_a_compressed_tar_that_is_cut_or_damaged_is_named(tmp_path: Path, kind: str, nested: bool) -> None:
    tar = tar_of([(f"n01440764_{number}.JPEG", jpeg(number)) for number in range(30)])
    whole = COMPRESS[kind](tar)
    damaged = bytearray(whole)
    damaged[len(damaged) // 2 : len(damaged) // 2 + 64] = bytes(64)
    for bad in (whole[: len(whole) // 2], whole[:-3], bytes(damaged)):
        path = tmp_path / "x.tar"
        path.write_bytes(tar_of([("n01440764.tar.x", bad)]) if nested else bad)

        with pytest.raises(DataError, match=r"x\.tar"):
            read_all(path, nested=nested)


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz", "zst"])
@pytest.mark.parametrize("nested", [False, True], ids=["outer", "inner"])
@pytest.mark.parametrize("where", ["in a member", "behind the end"])
def test_a_bomb_is_given_up_however_it_is_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, nested: bool, where: str
) -> None:
    monkeypatch.setattr(_archives, "SLACK", 2**20)
    monkeypatch.setattr(_archives, "SLACK_INSIDE", 2**20)
    member = tarfile.TarInfo("imagenette2/notes.txt")
    member.size = 2**23 if where == "in a member" else 0
    bomb = COMPRESS[kind](member.tobuf() + bytes(2**23))
    path = tmp_path / "x.tar"
    path.write_bytes(tar_of([("a.tar", bomb)]) if nested else bomb)

    with pytest.raises(DataError, match="larger inside"):
        read_all(path, nested=nested)


def test_an_xz_that_wants_gigabytes_of_memory_is_refused(tmp_path: Path) -> None:
    filters = [{"id": lzma.FILTER_LZMA2, "preset": 0, "dict_size": 2**30}]
    (tmp_path / "x.tar.xz").write_bytes(lzma.compress(tar_of([("a", b"a")]), filters=filters))

    with pytest.raises(DataError, match=r"x\.tar\.xz cannot be read as an archive \(Memory usage limit"):
        list(members(tmp_path / "x.tar.xz"))


def read_all(path: Path, *, nested: bool) -> None:
    """Read every member, or every member of every member."""
    for member in members(path):
        for one in member.nested() if nested else [member]:
            if one.size < 2**20:
                one.read()


def test_an_inner_archive_is_as_little_trusted_as_the_outer_one(tmp_path: Path) -> None:
    for what, hostile in HOSTILE.items():
        if what == "garbage at the end":  # as behind any tar's end
            continue
        path = tmp_path / "x.tar.gz"
        path.write_bytes(gzip.compress(tar_of([("n01440764.tar", hostile)])))

        with pytest.raises(DataError, match=r"x\.tar\.gz, n01440764\.tar"):
            read_all(path, nested=True)


def test_a_class_tar_that_was_cut_is_named_with_the_tar_it_is_in(tmp_path: Path) -> None:
    train, val = published.imagenet(tmp_path)
    inner = [(one.name, bytes(one.read())) for one in members(train)]
    train.write_bytes(tar_of([inner[0], (inner[1][0], inner[1][1][: 512 + 600])]))

    with pytest.raises(DataError, match=r"img_train\.tar, n02102040\.tar ends early"):
        prepare(imagenet([train, val], verify=False), tmp_path / "out")
