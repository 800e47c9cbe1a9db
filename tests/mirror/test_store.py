"""Objects that are whole or absent, and two that change from one version to the next, on S3 and on a disk."""

from __future__ import annotations

import hashlib
import io
import os
import threading
from pathlib import Path

import pytest

from benchmarks._s3_proxy import in_front_of
from tests.dataset.conftest import Bucket
from trainer.errors import ConfigError, MirrorError
from trainer.mirror import Gone, _s3, _store, check_address, open_store, prove
from trainer.mirror._store import Changed, Store

CONTENT = b"some bytes " * 50_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


def put(store: Store, name: str) -> None:
    store.put(name, io.BytesIO(CONTENT), len(CONTENT), SHA256)


def get(store: Store, name: str) -> bytes:
    store.get(name, file := io.BytesIO())
    return file.getvalue()


def test_what_was_put_comes_back_is_listed_and_can_be_deleted(store: Store) -> None:
    put(store, "files/a/b")
    put(store, "files/c")

    assert get(store, "files/a/b") == CONTENT
    assert store.names("files/") == ["files/a/b", "files/c"]
    store.delete(["files/a/b", "files/never"])
    assert store.names("") == ["files/c"]
    with pytest.raises(Gone, match="is not there any more"):
        get(store, "files/a/b")


def test_an_object_that_changes_does_so_only_from_the_version_that_was_read(store: Store) -> None:
    first = store.write("lease", b"1", version=None)
    with pytest.raises(Changed):
        store.write("lease", b"2", version=None)
    second = store.write("lease", b"3", version=first)
    with pytest.raises(Changed):
        store.write("lease", b"4", version=first)

    found = store.read("lease")
    assert found is not None
    assert (found.data, found.version) == (b"3", second)
    assert -1.5 < found.age < 5
    assert store.read("another") is None


def test_of_many_who_write_at_once_one_does(url: str) -> None:
    start, won = threading.Barrier(4), []

    def write(number: int) -> None:
        store = open_store(url, "run")
        start.wait()
        try:
            store.write("lease", b"%d" % number, version=None)
            won.append(b"%d" % number)
        except Changed:
            pass

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(won) == 1
    found = open_store(url, "run").read("lease")
    assert found is not None
    assert found.data == won[0]


def test_a_mirror_that_can_be_used_is_left_as_it_was(store: Store) -> None:
    prove(store)

    assert store.names("") == []


def test_what_killed_processes_have_left_is_swept_up(
    url: str, store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("files/a", "probe-1", "condition-1"):
        put(store, name)
    if url.startswith("file:"):
        (tmp_path / "shared" / "run" / ".object.1").write_text("half of")
    store.sweep()
    assert len(store.names("")) >= 3, "they may be of another who is at work"

    for module in (_s3, _store):
        monkeypatch.setattr(module, "LEFT_SECONDS", -10)
    store.sweep()
    assert store.names("") == ["files/a"]


@pytest.mark.parametrize(
    "address", ["gs://bucket/runs", "http://host/runs", "s3://", "", "s3://[bucket]/runs"]
)
def test_an_address_that_cannot_keep_two_machines_apart_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="cannot be RUNS_REMOTE: give s3://BUCKET/PREFIX, or "):
        open_store(address, "run")


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("file://mnt/shared", "names a machine: give RUNS_REMOTE as file:///PATH, with three slashes"),
        ("s3://bucket/runs?region=x", r"\? and # have no meaning there"),
        ("s3://bucket/runs#1", r"\? and # have no meaning there"),
        ("/data/runs", "hold one another: give a folder of another disk"),
        ("file:///data/runs/mirrors", "hold one another"),
        ("/data", "hold one another"),
    ],
)
def test_an_address_that_cannot_be_meant_is_refused(address: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        check_address(address, Path("/data/runs"))


def test_credentials_in_the_address_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="holds credentials") as refused:
        open_store("s3://me:hunter2@bucket/runs", "run")

    assert "hunter2" not in str(refused.value)


def test_a_disk_that_is_not_mounted_is_refused_instead_of_made(tmp_path: Path) -> None:
    with pytest.raises(MirrorError, match="is no folder: mount its disk, or make it"):
        open_store(str(tmp_path / "mnt"), "run")

    assert not (tmp_path / "mnt").exists()


@pytest.mark.slow
def test_what_an_s3_answers_becomes_a_sentence_without_secrets(
    bucket: Bucket,
    s3_endpoint: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(MirrorError, match="there is no such bucket: look at RUNS_REMOTE, or make it"):
        prove(open_store("s3://nobodys-bucket-at-all/runs", "run"))

    url = f"s3://{bucket.name}/runs"
    with in_front_of(s3_endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        for status, words in (
            (403, "the policy must allow s3:GetObject, s3:PutObject"),
            (500, "S3 answers 500"),
            (404, "there is no S3: look at RUNS_REMOTE and AWS_ENDPOINT_URL"),
        ):
            proxy.status = status
            with pytest.raises(MirrorError, match=words) as refused:
                prove(open_store(url, "run"))
            assert "a secret of mine" not in str(refused.value)
        proxy.well()
        prove(open_store(url, "run"))
        proxy.ignores_conditions = True
        with pytest.raises(MirrorError, match="could not be kept apart; use another"):
            prove(open_store(url, "run"))

    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(MirrorError, match="no answer: look at the network, AWS_ENDPOINT_URL"):
        prove(open_store(url, "run"))

    keys = {name: os.environ[name] for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID")}
    for name in keys:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_endpoint)
    store = open_store(url, "run")
    with pytest.raises(MirrorError, match="no AWS credentials were found: set AWS_ACCESS_KEY_ID"):
        prove(store)
    for name, key in keys.items():
        monkeypatch.setenv(name, key)
    prove(store)  # that of a user who has logged in meanwhile
