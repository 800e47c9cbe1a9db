"""Cut off at any moment, by anything: the same manifest in the end, and nothing else is touched."""

from __future__ import annotations

import hashlib
import json
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.conftest import write_photo
from tests.dataset import published
from tests.dataset.conftest import many
from trainer.dataset import Resize, digits, folder, imagenet, open_dataset, prepare
from trainer.dataset._resume_log import LOG
from trainer.errors import DataError


def test_a_second_call_does_nothing_and_says_so(tmp_path: Path, undisturbed: str) -> None:
    assert prepare(many(), tmp_path / "out").made
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}

    again = prepare(many(), tmp_path / "out")

    assert (again.made, again.metadata["digest"]) == (False, undisturbed)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")

    with pytest.raises(DataError, match="is not empty"):
        prepare(digits(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_crash_leaves_nothing_in_a_users_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for split in ("train", "val"):
        write_photo(tmp_path / split / "ant" / "0.jpg")

    monkeypatch.setattr("trainer.dataset._preparation.image_size", {}.__getitem__)
    with pytest.raises(KeyError):
        prepare(folder(tmp_path, out=tmp_path), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["train", "val"]


def test_another_data_set_is_not_written_over(tmp_path: Path) -> None:
    prepare(many(), tmp_path / "out")

    with pytest.raises(DataError, match="already holds the data set many"):
        prepare(replace(many(), name="more"), tmp_path / "out")
    with pytest.raises(
        DataError, match=r"already holds the data set many \(default options\), not many \(shorter_side 32"
    ):
        prepare(many(), tmp_path / "out", resize=Resize(32))


def test_two_at_once_do_not_disturb_each_other(tmp_path: Path, undisturbed: str) -> None:
    first = threading.Thread(target=prepare, args=(many(slow=0.005), tmp_path / "out"), kwargs={"workers": 1})
    first.start()
    while not (tmp_path / "out" / ".preparing" / LOG).exists():
        time.sleep(0.001)

    with pytest.raises(DataError, match="another `trainer prepare` is at work"):
        prepare(many(), tmp_path / "out")
    first.join()
    assert open_dataset(tmp_path / "out").digest == undisturbed


def test_too_small_a_disk_is_found_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"need about 1,000,000,000\.0 GB more.*--shorter-side 352"):
        prepare(replace(many(), bytes=10**18), tmp_path / "out")
    assert not list((tmp_path / "out").rglob("*.JPEG"))


@pytest.mark.slow
def test_twenty_kills_at_random_moments_end_in_the_manifest_of_an_undisturbed_preparation(
    tmp_path: Path,
) -> None:
    train, val = published.imagenet(tmp_path, each=1500)
    arguments = ["prepare", "imagenet", str(train), str(val), "--no-md5", "--workers", "2", "--json"]

    def start(out: Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "trainer", *arguments, "--out", str(out)],
            stdout=subprocess.PIPE,
            text=True,
        )

    calm = start(tmp_path / "calm")
    wanted = json.loads(calm.communicate(timeout=300)[0])
    assert wanted["counts"] == {"train": 4500, "val": 6}

    rng = random.Random(0)
    kills = midway = 0
    out = tmp_path / "disturbed"
    while kills < 20:
        process, more = start(out), rng.randrange(1, 800)  # images until it is killed
        before = published.images_in(out)
        while published.images_in(out) < before + more and process.poll() is None:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        said = process.communicate()[0]
        kills += 1
        midway += (out / ".preparing").exists() and any(out.rglob("*.JPEG"))
        if said:  # it was done before the kill: begin another
            assert json.loads(said)["digest"] == wanted["digest"]
            out = tmp_path / f"disturbed-{kills}"
    last = json.loads(start(out).communicate(timeout=300)[0])

    assert midway >= 10, "the kills must hit preparations at work"
    assert last["digest"] == wanted["digest"]
    digest = hashlib.sha256
    assert {p.name: digest(p.read_bytes()).digest() for p in out.rglob("*.JPEG")} == {
        p.name: digest(p.read_bytes()).digest() for p in (tmp_path / "calm").rglob("*.JPEG")
    }
    assert not [path.name for path in out.iterdir() if path.name.startswith(".")]


def test_bytes_written_are_the_images_and_their_index(tmp_path: Path) -> None:
    """No class tar is ever written: the kernel's count of this process's writes is that of the images."""
    archives = published.imagenet(tmp_path, each=300)

    def written() -> int:
        with open("/proc/self/io") as file:
            return int(dict(line.split(": ") for line in file.read().splitlines())["wchar"])

    before = written()
    prepare(imagenet(archives, verify=False), tmp_path / "out")
    images = sum(path.stat().st_size for path in (tmp_path / "out").rglob("*.JPEG"))

    log_and_index = 2**17 + 0.15 * images  # of images of a kilobyte; 0.1 % of ImageNet's
    assert images <= written() - before < images + log_and_index
