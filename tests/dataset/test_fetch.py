"""A prepared data set brought from where it was put: whole, verified, or not at all."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from tests.dataset import published
from tests.dataset.conftest import Bucket, many, small_tmpfs
from tests.dataset.servers import FileServer
from trainer.dataset import ImageRecord, _fetch, fetch_dataset, open_dataset, prepare, write_manifest
from trainer.errors import DataError


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set of 60 images."""
    out = tmp_path_factory.mktemp("prepared") / "set"
    prepare(many(60), out)
    return out


def files_of(root: Path) -> dict[str, bytes]:
    return {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_from_s3_comes_the_data_set_byte_for_byte(bucket: Bucket, prepared: Path, tmp_path: Path) -> None:
    url = bucket.put(prepared, "sets/many")

    fetched = fetch_dataset(url, tmp_path / "out")

    assert fetched.made
    assert fetched.images == 60
    assert files_of(tmp_path / "out") == files_of(prepared)
    assert not fetch_dataset(f"{url}/", tmp_path / "out").made


@pytest.mark.parametrize("place", ["folder", "web"])
def test_from_a_mounted_disk_or_a_web_server_likewise(
    place: str, web: FileServer, prepared: Path, tmp_path: Path
) -> None:
    shutil.copytree(prepared, web.folder / "set")
    source = str(web.folder / "set") if place == "folder" else web.url("set")

    fetch_dataset(source, tmp_path / "out")

    assert files_of(tmp_path / "out") == files_of(prepared)


def test_names_that_mean_something_to_a_shell_or_in_an_address_are_only_names(
    bucket: Bucket, web: FileServer, tmp_path: Path
) -> None:
    from tests.conftest import write_photo
    from trainer.dataset import folder

    own = web.folder / "own"
    for split in ("train", "val"):
        for number, name in enumerate(("a b", "ü#1", "[x]", "50%", "q?")):
            write_photo(own / split / name / f"{name}*.jpg", seed=number)
    prepare(folder(own, out=own), own)

    for number, source in enumerate((bucket.put(own, "own"), web.url("own"), str(own))):
        fetch_dataset(source, tmp_path / f"{number}")
        assert files_of(tmp_path / f"{number}") == files_of(own)


def test_what_is_there_and_right_is_not_fetched_again(prepared: Path, tmp_path: Path) -> None:
    fetch_dataset(str(prepared), tmp_path / "out")
    (tmp_path / "out" / ".fetching").mkdir()
    (tmp_path / "out" / "dataset.json").unlink()
    paths = sorted((tmp_path / "out").rglob("*.JPEG"))
    paths[0].write_bytes(paths[0].read_bytes()[:-1])
    data = bytearray(paths[1].read_bytes())
    data[100] ^= 1
    paths[1].write_bytes(data)
    paths[2].unlink()

    assert fetch_dataset(str(prepared), tmp_path / "out").images == 3
    assert files_of(tmp_path / "out") == files_of(prepared)


@pytest.mark.parametrize("damage", ["cut", "longer", "flipped", "missing"])
def test_an_object_that_is_not_what_the_manifest_says_is_named_and_there_is_no_data_set(
    damage: str, bucket: Bucket, tmp_path: Path
) -> None:
    prepare(many(12), tmp_path / "bad")
    victim = sorted((tmp_path / "bad").rglob("*.JPEG"))[7]
    data = bytearray(victim.read_bytes())
    data[200] ^= 1
    changed = {"cut": data[:-1], "longer": victim.read_bytes() + b"x", "flipped": data}
    victim.unlink() if damage == "missing" else victim.write_bytes(changed[damage])

    with pytest.raises(DataError, match=victim.name):
        fetch_dataset(bucket.put(tmp_path / "bad", "bad"), tmp_path / "out")
    with pytest.raises(DataError):
        open_dataset(tmp_path / "out")


def test_where_no_data_set_is_there_is_nothing_to_fetch(
    bucket: Bucket, prepared: Path, tmp_path: Path
) -> None:
    url = bucket.put(prepared / "train", "train")

    for source, says in [
        (url, "there is no dataset.json"),
        (str(tmp_path), "there is no dataset.json"),
        ("s3://no-bucket-of-that-name/x", "no such bucket"),
        ("http://127.0.0.1:9/x?token=hush", "127.0.0.1"),
        ("gs://bucket/x", "gcsfs"),
    ]:
        with pytest.raises(DataError, match=says) as raised:
            fetch_dataset(source, tmp_path / "out")
        assert "hush" not in str(raised.value)
    assert not (tmp_path / "out").exists()


def test_a_folder_with_other_things_in_it_is_left_alone(prepared: Path, tmp_path: Path) -> None:
    prepare(many(20), tmp_path / "other")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")

    with pytest.raises(DataError, match="has images of the data set many"):
        fetch_dataset(str(prepared), tmp_path / "other")
    with pytest.raises(DataError, match="is not empty"):
        fetch_dataset(str(prepared), tmp_path / "mine")
    assert len(open_dataset(tmp_path / "other").train) == 16


def test_a_disk_that_is_too_small_is_said_before_anything_is_fetched(prepared: Path, tmp_path: Path) -> None:
    with small_tmpfs(tmp_path / "disk", megabytes=1) as disk:
        (disk / "lost+found").write_bytes(bytes(990_000))
        with pytest.raises(DataError, match="GB more"):
            fetch_dataset(str(prepared), disk)
        assert not list(disk.rglob("*.JPEG"))


@pytest.mark.parametrize("path", [".fetching/a/x.JPEG", "dataset.json/x.JPEG", "x.JPEG"])
def test_a_manifest_that_would_write_over_the_data_sets_own_files_is_refused(
    tmp_path: Path, path: str
) -> None:
    images = [
        ImageRecord("train", "a", path, 9, 1, 1, 0),
        ImageRecord("val", "a", "val/a/y.JPEG", 9, 1, 1, 0),
    ]
    (tmp_path / "hostile").mkdir()
    write_manifest(
        tmp_path / "hostile",
        images,
        [],
        metadata={"name": "x", "options": {}, "published": None},
        class_names={},
    )

    with pytest.raises(DataError, match="is no name for an image"):
        fetch_dataset(str(tmp_path / "hostile"), tmp_path / "out")


def test_several_processes_bring_the_same(
    prepared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_fetch, "BATCH", 25)
    seen: list[tuple[int, int]] = []
    environment = dict(os.environ)

    fetch_dataset(
        str(prepared), tmp_path / "out", workers=2, progress=lambda done, total: seen.append((done, total))
    )

    assert os.environ == environment
    assert files_of(tmp_path / "out") == files_of(prepared)
    assert seen[-1][0] == seen[-1][1] == sum(path.stat().st_size for path in prepared.rglob("*.JPEG"))


def fetch_command(source: str, out: Path) -> list[str]:
    return [sys.executable, "-m", "trainer", "fetch", source, "--out", str(out), "--json"]


@pytest.mark.slow
def test_kills_at_random_moments_cost_nothing(bucket: Bucket, tmp_path: Path) -> None:
    prepare(published_set(tmp_path), tmp_path / "set")
    url, rng, midway = bucket.put(tmp_path / "set", "set"), random.Random(0), 0
    for _ in range(6):
        process = subprocess.Popen(fetch_command(url, tmp_path / "out"), stdout=subprocess.DEVNULL)
        more = rng.randrange(1, 40)  # images until it is killed
        before = published.images_in(tmp_path / "out")
        while process.poll() is None and published.images_in(tmp_path / "out") < before + more:
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        midway += not (tmp_path / "out" / "dataset.json").exists()
    done: Any = json.loads(subprocess.check_output(fetch_command(url, tmp_path / "out")))

    assert midway >= 3
    assert done["data"] == str(tmp_path / "out")
    assert files_of(tmp_path / "out") == files_of(tmp_path / "set")


def published_set(folder: Path) -> Any:
    from trainer.dataset import imagenet

    return imagenet(published.imagenet(folder, each=100), verify=False)


def test_the_command_says_what_it_brought(prepared: Path, tmp_path: Path) -> None:
    said = json.loads(subprocess.check_output(fetch_command(str(prepared), tmp_path / "out"), env=os.environ))

    assert said["made"]
    assert said["images"] == 60
    assert said["digest"] == open_dataset(prepared).digest
