"""Downloads from the Hub, by the real huggingface_hub from a server that behaves like it, in every mood."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.dataset import published
from tests.dataset.hub import TOKEN, Hub, serving
from trainer.dataset import huggingface, open_dataset, prepare
from trainer.dataset._hub import AHEAD, Downloads, find_repository
from trainer.dataset.forms.huggingface import huggingface_hub
from trainer.errors import DataError

NAME = "ILSVRC/imagenet-1k"


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published.huggingface_parquet(tmp_path_factory.mktemp("hub") / "files", shards=(6, 2))


@pytest.fixture(scope="module")
def wanted(shards: Path) -> str:
    """Digest of the data set that these shards make."""
    return str(prepare(huggingface(shards), shards.parent / "out").metadata["digest"])


@pytest.fixture
def hub(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A Hub that this process's library asks, too, which reads its settings when it is imported."""
    with serving(shards) as hub:
        for name, value in {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": f"{hub.url}/{{repo_id}}/resolve/{{revision}}/{{filename}}",
            "HF_HUB_DISABLE_XET": True,
            "HF_TOKEN_PATH": str(tmp_path / "no-token"),
            "HF_HUB_CACHE": str(tmp_path / "no-cache"),
        }.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        yield hub


def prepared(out: Path, *, downloads: Path | None = None, partial: bool = False) -> str:
    source = huggingface_hub(
        find_repository(NAME, backoff=0),
        downloads or out / ".preparing" / "downloads",
        keep=downloads is not None,
        partial=partial,
        backoff=0,
    )
    return str(prepare(source, out).metadata["digest"])


def test_the_data_set_is_that_of_the_same_shards_in_a_folder(hub: Hub, tmp_path: Path, wanted: str) -> None:
    assert prepared(tmp_path / "out") == wanted
    assert not (tmp_path / "out" / ".preparing").exists()
    assert not any("test-" in name or "README" in name for name, _ in hub.contents_asked())


def test_all_pages_of_a_listing_are_read(hub: Hub, shards: Path) -> None:
    files = {str(path.relative_to(shards)): path.stat().st_size for path in shards.rglob("*.*")}

    assert dict(find_repository(NAME).files) == files


def test_each_shard_is_deleted_when_it_has_been_read(hub: Hub, tmp_path: Path, shards: Path) -> None:
    """Never more on the disk than the one that is read and those that are downloaded meanwhile."""
    seen: list[int] = []
    downloads = tmp_path / "out" / ".preparing" / "downloads"

    def watch() -> None:
        found = [path for path in downloads.rglob("*") if path.suffix in (".parquet", ".incomplete")]
        seen.append(len(found))

    hub.watch = watch
    prepared(tmp_path / "out")

    assert len(hub.contents_asked()) == 8
    assert 1 <= max(seen) <= 1 + AHEAD


def test_with_a_folder_of_their_own_shards_stay_and_are_not_downloaded_again(
    hub: Hub, tmp_path: Path, wanted: str
) -> None:
    assert prepared(tmp_path / "out", downloads=tmp_path / "downloads") == wanted
    assert len(list((tmp_path / "downloads" / "data").glob("*.parquet"))) == 8

    assert prepared(tmp_path / "again", downloads=tmp_path / "downloads") == wanted
    assert len(hub.contents_asked()) == 8


def test_a_cut_connection_goes_on_where_it_was(
    hub: Hub, tmp_path: Path, wanted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.DOWNLOAD_CHUNK_SIZE", 100)  # it writes so much at once
    hub.cut_after = [1000, 500]

    assert prepared(tmp_path / "out") == wanted

    ranges = [byte_range for _, byte_range in hub.contents_asked() if byte_range]
    assert ranges[0].startswith("bytes=1000-")


def test_a_busy_hub_is_asked_again_after_the_time_that_it_names(
    hub: Hub, tmp_path: Path, wanted: str
) -> None:
    hub.moods = [
        ("/api/", 503, {}),
        ("/tree/", 429, {"Retry-After": "0"}),
        ("/auth-check", 500, {"Retry-After": "1"}),
        ("/cdn/", 500, {}),
        ("/cdn/", 429, {"Retry-After": "1"}),
        ("/resolve/", 504, {}),
    ]

    begun = time.monotonic()
    assert prepared(tmp_path / "out") == wanted
    assert not hub.moods
    assert time.monotonic() - begun > 2  # seconds that it asked for


def test_a_hub_that_never_answers_is_given_up_and_what_is_there_is_kept(
    hub: Hub, tmp_path: Path, wanted: str
) -> None:
    hub.moods = [("/cdn/data/train-00005", 500, {})] * 100

    with pytest.raises(DataError, match=r"\(the Hub answers 500\); what has been prepared is kept"):
        prepared(tmp_path / "out")
    assert len(list((tmp_path / "out").rglob("*.JPEG"))) == 10
    hub.moods, before = [], len(hub.contents_asked())
    assert prepared(tmp_path / "out") == wanted
    assert {name for name, _ in hub.contents_asked()[before:]} == {
        "train-00005-of-00006.parquet",
        "validation-00000-of-00002.parquet",
        "validation-00001-of-00002.parquet",
    }


def test_no_hub_at_all_is_said_in_a_sentence(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")

    with pytest.raises(DataError, match="no connection"):
        find_repository(NAME, backoff=0)


def test_a_gated_data_set_says_what_to_accept_and_where(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wanted: str
) -> None:
    hub.gated = True
    page = f"{hub.url}/datasets/{NAME}"

    with pytest.raises(
        DataError, match=rf"asks for an account: accept its terms at {page}, then make a token"
    ):
        find_repository(NAME)
    monkeypatch.setenv("HF_TOKEN", "hf_stranger")
    with pytest.raises(DataError, match=rf"your token has no access to {NAME}: accept its terms at {page}"):
        find_repository(NAME)
    assert not hub.contents_asked()

    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert prepared(tmp_path / "out") == wanted


def test_a_login_that_is_stored_is_used(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, wanted: str
) -> None:
    hub.gated = True
    (tmp_path / "token").write_text(TOKEN)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "token"))

    assert prepared(tmp_path / "out") == wanted


def test_access_that_is_withdrawn_in_between_is_said_as_well(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    repository = find_repository(NAME)
    hub.gated = True

    with pytest.raises(DataError, match="accept its terms"):
        prepare(huggingface_hub(repository, tmp_path / "d", keep=False, backoff=0), tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        ("ILSVRC/imagenet-2k", None, "is neither a folder here nor a data set that can be seen at http"),
        (NAME, "script", "has no revision script"),
        ("a/b/c", None, "is neither a folder nor the name of a data set on the Hub, OWNER/NAME"),
    ],
)
def test_what_is_not_there_is_said_at_once(hub: Hub, name: str, revision: str | None, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_repository(name, revision)
    assert len(hub.asked) <= 1


def test_files_outside_of_a_folder_are_not_downloaded(hub: Hub) -> None:
    hub.listed = ["../data/train-00000-of-00001.parquet"]

    with pytest.raises(DataError, match=r"names files outside of a folder \(\.\./data/train"):
        find_repository(NAME)


def test_an_invalid_token_is_said(hub: Hub) -> None:
    hub.moods = [("/api/", 403, {})]

    with pytest.raises(DataError, match=r"answers 403: your token is not valid for it; make a token"):
        find_repository(NAME)


def test_offline_is_obeyed_and_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)

    with pytest.raises(DataError, match="HF_HUB_OFFLINE forbids that"):
        find_repository(NAME)
    assert not hub.asked


def test_too_small_a_disk_is_found_before_a_byte_is_downloaded(
    hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = os.statvfs(tmp_path)
    repository = find_repository(NAME)
    size = free.f_bavail * free.f_frsize
    large = type(repository)(repository.name, repository.commit, dict.fromkeys(repository.files, size // 9))

    with pytest.raises(DataError, match="the images need about"):  # 8 shards would fit, and 3 more do not
        prepare(huggingface_hub(large, tmp_path / "d", keep=False), tmp_path / "out")
    huge = type(repository)(repository.name, repository.commit, dict.fromkeys(repository.files, size))
    with pytest.raises(DataError, match=r"the shards need .* or leave out --downloads"):
        huggingface_hub(huge, tmp_path / "d", keep=True)
    assert not hub.contents_asked()


def test_missing_shards_are_named_before_a_byte_is_downloaded(hub: Hub, tmp_path: Path, shards: Path) -> None:
    repository = find_repository(NAME)
    files = dict(repository.files)
    del files["data/train-00003-of-00006.parquet"]
    part = type(repository)(repository.name, repository.commit, files)

    with pytest.raises(DataError, match=r"ILSVRC/imagenet-1k lacks 1 of the 6 shards.*train-00003-of-00006"):
        huggingface_hub(part, tmp_path / "d", keep=False)
    assert huggingface_hub(part, tmp_path / "d", keep=False, partial=True).shards.keys() < files.keys()


def test_progress_counts_the_bytes_of_all_shards(hub: Hub, tmp_path: Path, shards: Path) -> None:
    seen: list[tuple[int, int]] = []
    repository = find_repository(NAME)
    names = [name for name in repository.files if "train" in name]

    def note(done: int, total: int) -> None:
        seen.append((done, total))

    downloads = Downloads(repository, names, tmp_path, keep=True, progress=note)
    for name in names:
        with downloads.open(name) as path:
            assert path.read_bytes() == (shards / name).read_bytes()

    total = sum(repository.files[name] for name in names)
    assert seen[-1] == (total, total)
    assert seen == sorted(seen)


# --- The command ------------------------------------------------------------------------------


def environment(hub: Hub, home: Path) -> dict[str, str]:
    return {
        **os.environ,
        "HOME": str(home),
        "HF_ENDPOINT": hub.url,
        "HF_HUB_DISABLE_XET": "1",
        "HF_TOKEN": TOKEN,
    }


def command(out: Path, *more: str) -> list[str]:
    return [sys.executable, "-m", "trainer", "prepare", "huggingface", *more, "--out", str(out), "--json"]


def test_the_command_downloads_with_a_home_that_cannot_be_written(
    hub: Hub, tmp_path: Path, wanted: str
) -> None:
    hub.gated = True
    home = Path("/proc/self")  # not even root can write there

    made = subprocess.run(
        command(tmp_path / "out"), env=environment(hub, home), capture_output=True, text=True, timeout=300
    )

    assert (made.returncode, made.stderr) == (0, "")
    assert json.loads(made.stdout)["digest"] == wanted


def test_the_command_says_what_is_missing_and_shows_no_token(hub: Hub, tmp_path: Path) -> None:
    hub.gated = True
    env = environment(hub, tmp_path) | {"HF_TOKEN": "hf_secret"}

    made = subprocess.run(command(tmp_path / "out"), env=env, capture_output=True, text=True, timeout=300)

    assert made.returncode == 2
    assert made.stderr.count("\n") <= 2
    assert "accept its terms at" in made.stderr.replace("\n", " ")
    assert "hf_secret" not in made.stdout + made.stderr
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_twenty_kills_at_random_moments_end_in_the_same_data_set(
    tmp_path: Path, hub: Hub, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path / "files"
    train, _ = published.images(each=1500)
    published.huggingface_parquet(folder, shards=(12, 2), each=1500)
    wanted = str(prepare(huggingface(folder), tmp_path / "calm").metadata["digest"])
    hub.folder, hub.slow = folder, 0.05
    rng = random.Random(0)
    midway = 0
    out = tmp_path / "out"
    env = environment(hub, tmp_path)
    for _ in range(20):
        process = subprocess.Popen(command(out, "--workers", "2"), env=env, stdout=subprocess.PIPE)
        asked = len(hub.contents_asked())
        while len(hub.contents_asked()) == asked and process.poll() is None:
            time.sleep(0.005)
        time.sleep(rng.uniform(0, 0.6))
        process.send_signal(signal.SIGKILL)
        said = process.communicate()[0]
        midway += (out / ".preparing").exists()
        if said:
            assert json.loads(said)["digest"] == wanted
            out = tmp_path / f"out-{midway}"
    last = subprocess.run(command(out), env=env, capture_output=True, text=True, timeout=300)

    assert midway >= 5, "the kills must hit preparations at work"
    assert json.loads(last.stdout)["digest"] == wanted
    assert len(open_dataset(out).train) == len(train)
    assert not (out / ".preparing").exists()
