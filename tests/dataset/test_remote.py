"""Archives that are read where they are: the same data set as from the disk, whatever the network does."""

from __future__ import annotations

import gzip
import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.dataset import published
from tests.dataset.conftest import Bucket
from tests.dataset.published import jpeg, tar_of, zip_of
from tests.dataset.servers import FileServer
from trainer.dataset import (
    Source,
    _missing,
    _remote,
    _web,
    fastai,
    fetch,
    imagenet,
    kaggle,
    prepare,
    tiny_imagenet,
)
from trainer.dataset._archives import members
from trainer.dataset._remote import RemoteFile
from trainer.errors import DataError

FORMS: dict[str, tuple[Callable[[Path], Any], Callable[[Any], Source]]] = {
    "imagenet": (published.imagenet, lambda archives: imagenet(archives, verify=False)),
    "kaggle's zip": (published.kaggle_zip, kaggle),
    "kaggle's tar": (published.kaggle_tar, kaggle),
    "imagenette": (published.fastai, lambda archive: fastai("imagenette", archive, verify=False)),
    "tiny-imagenet": (published.tiny_imagenet, lambda archive: tiny_imagenet(archive, verify=False)),
}


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if these archives were large."""
    monkeypatch.setattr(_remote, "BLOCK", 5000)
    monkeypatch.setattr(_remote, "BACKOFF", 0.001)
    monkeypatch.setattr(_remote.RemoteFile.__init__, "__kwdefaults__", {"backoff": 0.001})


def stream(url: str) -> Any:
    return fetch(url, Path("nowhere"), stream=True)


def remote_and_local(form: str, folder: Path, place: Callable[[Path], str]) -> tuple[Source, Source]:
    make, source = FORMS[form]
    made = make(folder)
    if isinstance(made, Path):
        return source(stream(place(made))), source(made)
    return source([stream(place(one)) for one in made]), source(made)


@pytest.mark.parametrize("form", FORMS)
def test_from_s3_comes_the_same_data_set_as_from_the_disk(form: str, bucket: Bucket, tmp_path: Path) -> None:
    remote, local = remote_and_local(form, tmp_path, bucket.put)

    digests = {
        str(prepare(one, tmp_path / f"{number}").metadata["digest"])
        for number, one in enumerate((remote, local))
    }
    assert len(digests) == 1


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cut_every", [0, 3000])
def test_from_a_web_server_comes_the_same_data_set_even_if_it_cuts_every_connection(
    form: str, cut_every: int, web: FileServer, tmp_path: Path
) -> None:
    web.cut_every = cut_every
    remote, local = remote_and_local(form, web.folder, lambda path: web.url(path.name))

    assert (
        prepare(remote, tmp_path / "a").metadata["digest"]
        == prepare(local, tmp_path / "b").metadata["digest"]
    )
    assert sorted(path.name for path in (tmp_path / "a").iterdir() if path.name.startswith(".")) == []


@pytest.mark.parametrize("form", ["imagenet", "kaggle's tar", "imagenette"])
def test_a_tar_is_read_through_from_a_server_that_can_only_send_the_whole(
    form: str, web: FileServer, tmp_path: Path
) -> None:
    web.ranges = False
    remote, local = remote_and_local(form, web.folder, lambda path: web.url("moved/" + path.name))

    assert (
        prepare(remote, tmp_path / "a").metadata["digest"]
        == prepare(local, tmp_path / "b").metadata["digest"]
    )


def test_a_connection_that_is_cut_without_ranges_is_taken_up_where_it_was(web: FileServer) -> None:
    (web.folder / "x.tar").write_bytes(tar_of([(f"{n}.JPEG", jpeg(n)) for n in range(40)]))
    web.ranges, web.cut_every = False, 40_000
    found = members(stream(web.url("x.tar")))
    next(found)
    web.cut_every = 0

    assert [member.name for member in found] == [f"{n}.JPEG" for n in range(1, 40)]


def test_a_zip_from_a_server_without_ranges_is_refused_with_what_to_do(web: FileServer) -> None:
    archive = published.kaggle_zip(web.folder)
    web.ranges = False

    with pytest.raises(DataError, match=r"can only send the whole; .*--downloads"):
        list(members(stream(web.url(archive.name))))


def test_the_md5_is_checked_in_the_stream(web: FileServer, tmp_path: Path) -> None:
    archive = published.fastai(web.folder)
    md5 = hashlib.md5(archive.read_bytes()).hexdigest()

    def source(expected: str) -> Source:
        remote = stream(web.url(archive.name))
        return replace(fastai("imagenette", remote, verify=False), archives={remote: expected})

    with pytest.raises(DataError, match=rf"its MD5 is {md5}, not {'0' * 32}"):
        prepare(source("0" * 32), tmp_path / "wrong")
    assert prepare(source(md5), tmp_path / "right").metadata["archives"] == {archive.name: md5}


def test_of_tars_that_are_read_in_one_go_the_md5_is_checked_too(bucket: Bucket, tmp_path: Path) -> None:
    archives = published.imagenet(tmp_path)
    md5 = {archive.name: hashlib.md5(archive.read_bytes()).hexdigest() for archive in archives}
    remote = [stream(bucket.put(archive)) for archive in archives]
    source = replace(imagenet(remote, verify=False), archives={one: md5[one.name] for one in remote})

    assert prepare(source, tmp_path / "out").metadata["archives"] == md5


def test_a_zip_is_not_read_in_one_go_and_has_no_md5(web: FileServer, tmp_path: Path) -> None:
    archive = published.kaggle_zip(web.folder)
    remote = stream(web.url(archive.name))
    source = replace(kaggle(remote), archives={remote: "0" * 32})

    assert prepare(source, tmp_path / "out").metadata["archives"] == {archive.name: None}


def test_a_wrong_length_is_found_before_anything_is_read(web: FileServer) -> None:
    archive = published.fastai(web.folder)

    with pytest.raises(DataError, match=r"published imagenette2-320\.tgz has 341,663,724"):
        fastai("imagenette", stream(web.url(archive.name)), size="320")


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (401, r"answers 401 Unauthorized: it wants a login"),
        (403, r"answers 403 Forbidden: .* make a new one"),
        (404, r"answers 404 Not Found: there is no such file"),
        (410, r"answers 410 Gone"),
        (499, r"answers 499: download the file"),
    ],
)
def test_a_server_that_refuses_is_quoted_without_the_signature(
    web: FileServer, status: int, says: str
) -> None:
    web.statuses = [status]

    with pytest.raises(DataError, match=says) as raised:
        stream(web.url("x.tar", secret="hush"))
    assert len(web.asked) == 1
    assert "hush" not in str(raised.value)


def test_a_busy_server_is_asked_again(web: FileServer) -> None:
    (web.folder / "x.tar").write_bytes(tar_of([("a.JPEG", jpeg(1))]))
    web.statuses = [503, 429]

    assert [member.name for member in members(stream(web.url("x.tar")))] == ["a.JPEG"]


def test_an_archive_that_is_replaced_while_it_is_read_is_not_glued_together(web: FileServer) -> None:
    (web.folder / "x.tar").write_bytes(tar_of([(f"{n}.JPEG", jpeg(n)) for n in range(200)]))
    found = members(stream(web.url("x.tar")))
    next(found)
    web.version = '"2"'

    with pytest.raises(DataError, match="changed while it was read"):
        list(found)


def test_an_object_that_is_replaced_while_it_is_read_is_not_glued_together(
    bucket: Bucket, tmp_path: Path
) -> None:
    (tmp_path / "x.tar").write_bytes(tar_of([(f"{n}.JPEG", jpeg(n)) for n in range(200)]))
    found = members(stream(bucket.put(tmp_path / "x.tar")))
    next(found)
    (tmp_path / "x.tar").write_bytes(tar_of([(f"{n}.JPEG", jpeg(n + 1)) for n in range(200)]))
    bucket.put(tmp_path / "x.tar")

    with pytest.raises(DataError, match="changed while it was read"):
        list(found)


def test_a_server_that_does_not_say_how_long_a_file_is_is_named(web: FileServer) -> None:
    (web.folder / "x.tar").write_bytes(b"x" * 1000)
    web.ranges = web.tells_length = False

    with pytest.raises(DataError, match="does not say how long"):
        stream(web.url("x.tar"))


def test_no_server_is_said_in_a_sentence() -> None:
    with pytest.raises(DataError, match="no connection"):
        stream("http://127.0.0.1:9/x.tar?secret=hush")


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("s3://{bucket}/none.tar", "there is no such file"),
        ("s3://no-bucket-of-that-name/x.tar", "there is no such bucket"),
        ("s3://{bucket}/set", "is a folder, not an archive; .*trainer fetch"),
        ("gs://{bucket}/x.tar", "needs the package gcsfs"),
        ("nonsense://{bucket}/x.tar", "neither a path nor an address"),
    ],
)
def test_a_wrong_address_is_said_in_a_sentence(bucket: Bucket, tmp_path: Path, url: str, says: str) -> None:
    (tmp_path / "a").write_text("x")
    bucket.put(tmp_path / "a", "set/a")

    with pytest.raises(DataError, match=says):
        stream(url.format(bucket=bucket.name))


def test_without_credentials_a_public_bucket_is_read_and_another_is_refused_with_what_to_do(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.tar").write_bytes(tar_of([("a.JPEG", jpeg(1))]))
    url = bucket.put(tmp_path / "x.tar")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")

    with pytest.raises(DataError, match="no AWS credentials were found"):
        stream(url)
    bucket.client.put_object_acl(Bucket=bucket.name, Key="x.tar", ACL="public-read")
    assert [member.name for member in members(stream(url))] == ["a.JPEG"]


def test_credentials_that_do_not_suffice_are_told_what_they_lack(
    bucket: Bucket, web: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", web.url("").rstrip("/"))
    web.statuses = [403] * 50

    with pytest.raises(DataError, match=r"may not be read with these credentials: .*s3:GetObject"):
        stream("s3://bucket/x.tar")


@pytest.mark.slow  # s3fs tries for 8 seconds
def test_an_endpoint_that_is_down_is_said_in_a_sentence(
    bucket: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")

    with pytest.raises(DataError, match="no connection: look at the network, AWS_ENDPOINT_URL"):
        stream("s3://bucket/x.tar")


def test_an_address_of_a_file_here_is_its_path(tmp_path: Path) -> None:
    (tmp_path / "x.tar").write_bytes(b"x")

    assert fetch(f"file://{tmp_path}/x.tar", tmp_path, stream=True) == tmp_path / "x.tar"


def interrupt_midway(source: Source, out: Path, size: int) -> None:
    """Prepare about half of `size` bytes."""
    done = 0

    def stop(size_of_chunk: int) -> None:
        nonlocal done
        done += size_of_chunk
        if done > size / 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        prepare(source, out, progress=stop, workers=1)


@pytest.mark.parametrize("form", ["imagenet", "kaggle's zip"])
def test_what_is_written_is_not_asked_for_again(
    form: str, web: FileServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_web.WebServer, "parallel", 1)
    monkeypatch.setattr(_remote, "BLOCK", 1000)
    monkeypatch.setattr(_missing, "CHUNK_IMAGES", 3)
    remote, local = remote_and_local(form, web.folder, lambda path: web.url(path.name))
    calm = prepare(remote, tmp_path / "calm").metadata["digest"]
    all_of_it, web.sent = web.sent, 0
    images = sum(path.stat().st_size for path in (tmp_path / "calm").rglob("*.JPEG"))

    interrupt_midway(local, tmp_path / "out", images)
    again = prepare(replace(remote, archives=local.archives), tmp_path / "out")

    assert again.metadata["digest"] == calm
    assert web.sent < 0.75 * all_of_it


def test_an_address_is_stored_without_its_signature(web: FileServer, tmp_path: Path) -> None:
    archive = published.fastai(web.folder)
    command = [
        sys.executable,
        "-m",
        "trainer",
        "prepare",
        "imagenette",
        web.url(archive.name, secret="hush"),
        "--no-md5",
    ]

    for more in (["--out", tmp_path / "a"], ["--out", tmp_path / "b", "--downloads", tmp_path / "kept"]):
        said = subprocess.run([*command, *map(str, more)], capture_output=True, text=True)
        assert said.returncode == 0, said.stderr
        assert "hush" not in said.stdout + said.stderr
    stored = [path for name in ("a", "b", "kept") for path in (tmp_path / name).rglob("*")]
    assert not any(b"hush" in path.read_bytes() or "hush" in path.name for path in stored if path.is_file())
    assert [path.name for path in (tmp_path / "kept").iterdir()] == [archive.name]


def test_from_s3_an_archive_can_be_kept(bucket: Bucket, tmp_path: Path) -> None:
    content = os.urandom(30_000)
    (tmp_path / "x.tar").write_bytes(content)
    url = bucket.put(tmp_path / "x.tar")
    seen: list[tuple[int, int]] = []

    kept = fetch(url, tmp_path / "kept", progress=lambda done, total: seen.append((done, total)))

    assert kept == tmp_path / "kept" / "x.tar"
    assert kept.read_bytes() == content
    assert seen[-1] == (30_000, 30_000)


@pytest.mark.slow
@pytest.mark.parametrize("place", ["s3", "web"])
def test_kills_at_random_moments_cost_nothing(
    place: str, bucket: Bucket, web: FileServer, tmp_path: Path
) -> None:
    archives = published.imagenet(web.folder, each=600)
    web.slow = 0.002
    urls = [bucket.put(one) if place == "s3" else web.url(one.name) for one in archives]
    command = [sys.executable, "-m", "trainer", "prepare", "imagenet", *urls, "--no-md5", "--out"]
    out, rng, midway = tmp_path / "out", random.Random(0), 0
    for _ in range(7):
        process = subprocess.Popen([*command, str(out)], stdout=subprocess.DEVNULL)
        more = rng.randrange(1, 250)  # images until it is killed
        before = published.images_in(out)
        while process.poll() is None and published.images_in(out) < before + more:
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
        midway += (out / ".preparing").exists()
    subprocess.run([*command, str(out)], check=True, stdout=subprocess.DEVNULL)

    assert midway >= 4
    assert published.written(out) == published.written(_calm(archives, tmp_path / "calm"))


def _calm(archives: tuple[Path, Path], out: Path) -> Path:
    prepare(imagenet(archives, verify=False), out)
    return out


def test_what_is_on_its_way_is_bounded(web: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A reader that waits has no more than the ranges in flight brought into memory."""
    monkeypatch.setattr(_remote, "BLOCK", 10_000)
    (web.folder / "x.tar").write_bytes(tar_of([("a", bytes(2_000_000))]))
    remote = RemoteFile(web.url("x.tar"))
    with remote.open() as opened:
        for _ in range(6):
            opened.read(10_000)
        time.sleep(0.3)
        assert web.sent <= 6 * 10_000 + remote.ahead + 10_000


def test_a_gzip_in_a_zip_and_the_like_are_read_from_the_network_too(web: FileServer) -> None:
    inner = gzip.compress(tar_of([("n01440764_1.JPEG", jpeg(1))]))
    zip_of(web.folder / "x.zip", [("n01440764.tar.gz", inner)])

    (outer,) = members(stream(web.url("x.zip")))
    assert [(member.name, bytes(member.read())) for member in outer.nested()] == [
        ("n01440764_1.JPEG", jpeg(1))
    ]
