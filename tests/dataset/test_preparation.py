"""Cut off at any moment, by anything: the same manifest in the end, and nothing written twice."""

import hashlib
import io
import json
import random
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from tests.dataset import published
from tests.dataset.published import jpeg
from trainer.dataset import Resize, Source, SourceImage, fastai, imagenet, open_dataset, prepare
from trainer.errors import DataError

COUNT = 400


def many(out_of=COUNT, *, slow=0.0, broken_at=None):
    """A source of many images, as slow as asked for, that may break off."""

    def pictures():
        for index in range(out_of):
            if index == broken_at:
                raise DataError("the archive is damaged here")
            part, group = ("val" if index % 5 == 0 else "train"), f"c{index % 3}"
            data = jpeg(index)

            def read(data=data):
                time.sleep(slow)
                return data

            yield SourceImage(part, group, f"{part}/{group}/{index:04d}.JPEG", len(data), read)

    return Source(name="many", pictures=pictures, bytes=COUNT * 1500)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    return prepare(many(), tmp_path_factory.mktemp("undisturbed") / "out").about["digest"]


def test_a_second_call_does_nothing_and_says_so(tmp_path, undisturbed):
    assert prepare(many(), tmp_path / "out").made
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}

    again = prepare(many(), tmp_path / "out")

    assert (again.made, again.about["digest"]) == (False, undisturbed)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_what_was_written_before_a_break_is_not_written_again(tmp_path, undisturbed):
    with pytest.raises(DataError, match="damaged here"):
        prepare(many(broken_at=300), tmp_path / "out", workers=1)
    written = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.JPEG")}
    assert written

    again = prepare(many(), tmp_path / "out")

    assert again.about["digest"] == undisturbed
    assert again.resumed == len(written)
    assert {path: path.stat().st_mtime_ns for path in written} == written


def test_torn_notes_damaged_images_and_strays_are_mended(tmp_path, undisturbed):
    out = tmp_path / "out"
    with pytest.raises(DataError):
        prepare(many(broken_at=300), out)
    with (out / ".preparing" / "rows.tsv").open("a") as notes:
        notes.write("train\tc0\ttrain/c0/9999.JP")
    written = sorted(out.rglob("*.JPEG"))
    written[0].write_bytes(bytes(written[0].stat().st_size))  # as a power cut may leave it
    written[1].unlink()
    (out / "train" / "c0" / "half.JPEG").write_bytes(b"\xff\xd8\xff")

    again = prepare(many(), out)

    assert again.about["digest"] == undisturbed
    assert again.resumed == len(written) - 2
    assert not (out / "train" / "c0" / "half.JPEG").exists()
    assert sum(1 for _ in out.rglob("*.JPEG")) == COUNT


def test_other_options_do_not_go_on_with_a_begun_preparation(tmp_path):
    with pytest.raises(DataError):
        prepare(many(broken_at=300), tmp_path / "out")

    with pytest.raises(DataError, match=r"was begun in .* and has not ended"):
        prepare(many(), tmp_path / "out", reduction=Resize(32))


def test_another_data_set_is_not_written_over(tmp_path):
    prepare(many(), tmp_path / "out")

    with pytest.raises(DataError, match="already holds the data set many"):
        prepare(replace(many(), name="more"), tmp_path / "out")
    with pytest.raises(
        DataError, match=r"already holds the data set many \(as it is\), not many \(shorter_side 32"
    ):
        prepare(many(), tmp_path / "out", reduction=Resize(32))


def test_two_at_once_do_not_disturb_each_other(tmp_path, undisturbed):
    first = threading.Thread(target=prepare, args=(many(slow=0.005), tmp_path / "out"), kwargs={"writers": 1})
    first.start()
    while not (tmp_path / "out" / ".preparing" / "rows.tsv").exists():
        time.sleep(0.001)

    with pytest.raises(DataError, match="another `trainer prepare` is at work"):
        prepare(many(), tmp_path / "out")
    first.join()
    assert open_dataset(tmp_path / "out").digest == undisturbed


def test_too_small_a_disk_is_found_before_anything_is_written(tmp_path):
    with pytest.raises(DataError, match=r"need about 1,000,000,000\.0 GB more.*--shorter-side 352"):
        prepare(replace(many(), bytes=10**18), tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.JPEG"))


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 1 MB, in which a file takes 4 KB: too small for the images."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("only root can mount a small disk")
    yield disk
    subprocess.run(["umount", disk], check=True)


def test_a_disk_that_fills_up_loses_nothing(small_disk, undisturbed):
    source = replace(many(), bytes=0)  # so that it begins
    with pytest.raises(DataError, match="is full; nothing is lost"):
        prepare(source, small_disk / "out", workers=1)
    assert 100 < sum(1 for _ in small_disk.rglob("*.JPEG")) < COUNT

    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    again = prepare(source, small_disk / "out")

    assert again.about["digest"] == undisturbed
    assert again.resumed >= 64


def test_what_was_written_is_noted_even_on_a_disk_without_a_byte_left(small_disk, monkeypatch):
    from trainer.dataset import _preparation

    add = _preparation._Notes.add

    def add_late(notes, written):
        with suppress(OSError), (small_disk / "filler").open("ab", buffering=0) as filler:
            while filler.write(bytes(1000)):
                pass
        add(notes, written)

    monkeypatch.setattr(_preparation._Notes, "add", add_late)
    with pytest.raises(DataError, match="is full; nothing is lost"):
        prepare(replace(many(), bytes=0), small_disk / "out", workers=1)
    monkeypatch.undo()
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)

    assert prepare(replace(many(), bytes=0), small_disk / "out").resumed >= 64


def pixels(data):
    with Image.open(io.BytesIO(data)) as image:
        return np.asarray(image.resize((60, 30)), dtype=float)


def test_larger_images_are_stored_smaller_and_the_others_untouched(tmp_path):
    shapes = {"wide": (600, 300), "high": (210, 640), "small": (190, 300), "exact": (200, 500)}

    def pictures():
        for part in ("train", "val"):
            for seed, (name, (width, height)) in enumerate(shapes.items()):
                data = jpeg(seed, width=width, height=height)
                yield SourceImage(part, "a", f"{part}/a/{name}.JPEG", len(data), lambda data=data: data)

    made = prepare(Source("photos", pictures, 0), tmp_path / "out", reduction=Resize(200, quality=90))

    dataset = open_dataset(tmp_path / "out")
    sizes = {dataset.train.path(i).stem: tuple(dataset.train.sizes[i]) for i in range(4)}
    assert sizes == {"wide": (400, 200), "high": (200, 610), "small": (190, 300), "exact": (200, 500)}
    for index in range(4):
        path = dataset.train.path(index)
        with Image.open(path) as image:
            assert image.size == sizes[path.stem]
    assert (tmp_path / "out/train/a/small.JPEG").read_bytes() == jpeg(2, width=190, height=300)
    assert made.about["options"] == {"shorter_side": 200, "quality": 90}
    smaller = pixels((tmp_path / "out/train/a/wide.JPEG").read_bytes())
    assert np.abs(smaller - pixels(jpeg(0, width=600, height=300))).mean() < 2


def test_twenty_kills_at_random_moments_end_in_the_manifest_of_an_undisturbed_preparation(tmp_path):
    train, val = published.imagenet(tmp_path, each=1500)
    arguments = ["prepare", "imagenet", str(train), str(val), "--no-md5", "--workers", "2", "--json"]

    def start(out):
        return subprocess.Popen(
            [sys.executable, "-m", "trainer", *arguments, "--out", str(out)],
            stdout=subprocess.PIPE,
            text=True,
        )

    calm = start(tmp_path / "calm")
    wanted = json.loads(calm.communicate(timeout=60)[0])
    assert wanted["counts"] == {"train": 4500, "val": 6}

    luck = random.Random(0)
    kills = midway = 0
    out = tmp_path / "disturbed"
    while kills < 20:
        process = start(out)
        while not (out / ".preparing" / "what.json").exists() and process.poll() is None:
            time.sleep(0.002)
        time.sleep(luck.uniform(0, 0.35))
        process.send_signal(signal.SIGKILL)
        told = process.communicate()[0]
        kills += 1
        midway += (out / ".preparing").exists() and any(out.rglob("*.JPEG"))
        if told:  # it was done before the kill: begin another
            assert json.loads(told)["digest"] == wanted["digest"]
            out = tmp_path / f"disturbed-{kills}"
    last = json.loads(start(out).communicate(timeout=60)[0])

    assert midway >= 5, "the kills must hit preparations at work"
    assert last["digest"] == wanted["digest"]
    digest = hashlib.sha256
    assert {p.name: digest(p.read_bytes()).digest() for p in out.rglob("*.JPEG")} == {
        p.name: digest(p.read_bytes()).digest() for p in (tmp_path / "calm").rglob("*.JPEG")
    }
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]


def test_the_sum_of_the_archive_is_taken_while_it_is_read(tmp_path):
    archive = published.fastai(tmp_path)
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()
    source = replace(fastai("imagenette", archive, verify=False), sums={archive: md5})

    assert prepare(source, tmp_path / "out").about["archives"] == {archive.name: md5}


def test_bytes_written_are_the_images_and_their_index(tmp_path):
    """No class tar is ever written: the kernel's count of this process's writes is that of the images."""
    archives = published.imagenet(tmp_path, each=300)

    def written():
        with open("/proc/self/io") as file:
            return int(dict(line.split(": ") for line in file.read().splitlines())["wchar"])

    before = written()
    prepare(imagenet(archives, verify=False), tmp_path / "out")
    images = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*.JPEG"))

    notes_and_index = 2**17 + 0.15 * images  # of images of a kilobyte; 0.1 % of ImageNet's
    assert images <= written() - before < images + notes_and_index
