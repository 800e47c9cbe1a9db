"""What is uploaded to the Hub, by one commit; and each refusal in a sentence."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.publish.hub import FINE, READ, WRITE
from tests.publish.hub import Hub as StandIn
from trainer.errors import ConfigError, PublishError
from trainer.publish import Hub, Uploaded, valid_repo

OURS = ("README.md", "weights.safetensors", "bundle/")
README = b"---\nlicense: mit\n---\n\n# digits\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, content in {
        "README.md": README,
        "weights.safetensors": b"weights" * 1000,
        "bundle/a.txt": b"a",
        "bundle/b.txt": b"b",
    }.items():
        (tmp_path / "out" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "out" / name).write_bytes(content)
    return tmp_path / "out"


def upload(folder: Path, repo: str = "ana/digits", *, public: bool = False) -> Uploaded:
    hub = Hub()
    hub.prepare(repo, "model", public=public)
    return hub.upload(folder, repo, "model", message="Publish it", ours=OURS)


def test_all_files_are_uploaded_by_one_commit_to_a_private_repository(hub: StandIn, folder: Path) -> None:
    uploaded = upload(folder)
    repo = hub.repos["models", "ana/digits"]

    assert repo.private
    assert [commit["message"] for commit in repo.commits] == ["Publish it"]
    assert {name: content for name, content in repo.files.items() if name != ".gitattributes"} == {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()
    }
    assert uploaded == Uploaded(f"{hub.url}/ana/digits", repo.sha, new=True, private=True)


def test_a_second_time_nothing_is_new_and_no_commit_is_made(hub: StandIn, folder: Path) -> None:
    first = upload(folder)
    hub.asked.clear()
    again = upload(folder)

    assert (again.commit, again.new) == (first.commit, False)
    assert len(hub.repos["models", "ana/digits"].commits) == 1
    assert not [request for request in hub.asked if request.startswith("PUT") or "/commit/" in request]


def test_what_is_gone_is_removed_and_what_others_have_added_stays(hub: StandIn, folder: Path) -> None:
    upload(folder)
    hub.repos["models", "ana/digits"].files["picture.png"] = b"of the owner"
    (folder / "bundle" / "b.txt").unlink()
    (folder / "bundle" / "a.txt").write_bytes(b"other")

    assert upload(folder).new
    files = hub.repos["models", "ana/digits"].files
    assert {"picture.png", "bundle/a.txt"} <= files.keys()
    assert "bundle/b.txt" not in files
    assert files["bundle/a.txt"] == b"other"


def test_public_is_said(hub: StandIn, folder: Path) -> None:
    assert not upload(folder, public=True).private
    with pytest.raises(PublishError, match="is there and public; add --public if everybody may see"):
        upload(folder)
    assert not upload(folder, public=True).new


def test_a_space_is_one_of_gradio(hub: StandIn) -> None:
    Hub().prepare("ana/demo", "space", public=False)

    made = hub.repos["spaces", "ana/demo"].made
    assert (made["sdk"], made["visibility"]) == ("gradio", "private")


@pytest.mark.parametrize(
    ("token", "says"),
    [
        ("", "there is no token of the Hugging Face Hub; make one that may write at"),
        ("hf_wrong", "does not take this token for the token; make one that may write"),
        (READ, "the token of ana may only read; make one that may write"),
        (
            FINE,
            "ana/digits at .* is not there, or this token may not write to it; .*You don't have the rights",
        ),
    ],
)
def test_a_token_that_will_not_do_is_refused_in_a_sentence(
    hub: StandIn, folder: Path, monkeypatch: pytest.MonkeyPatch, token: str, says: str
) -> None:
    monkeypatch.setenv("HF_TOKEN", token)

    with pytest.raises(PublishError, match=says) as refused:
        upload(folder)
    assert "\n" not in str(refused.value)
    assert token != WRITE
    assert not hub.repos


def test_a_token_of_hf_auth_login_is_found(
    hub: StandIn, folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("HF_TOKEN")
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "token").write_text(WRITE)

    assert upload(folder).new


def test_a_name_that_is_somebody_elses_is_refused_and_nothing_of_it_is_changed(
    hub: StandIn, folder: Path
) -> None:
    with pytest.raises(PublishError, match=r"ben/digits at .* may not write to it; use one that may"):
        upload(folder, "ben/digits")
    assert not hub.repos


@pytest.mark.parametrize(
    ("request_", "status", "says"),
    [
        ("/commit/", 500, "has trouble of its own"),
        ("/commit/", 403, "may not write to it"),
        ("/repos/create", 429, "too many requests"),
        ("/validate-yaml", 418, "does not take ana/digits"),
        ("/repos/create", 402, "wants a paid account for ana/digits"),
        ("PUT /lfs/", 403, "ana/digits"),
    ],
)
def test_what_fails_on_the_way_is_said_and_leaves_the_repository_as_it_was(
    hub: StandIn, folder: Path, request_: str, status: int, says: str
) -> None:
    hub.answers[request_] = status

    with pytest.raises(PublishError, match=says) as refused:
        upload(folder)
    assert "\n" not in str(refused.value)
    assert all(not repo.commits for repo in hub.repos.values())
    hub.answers.clear()
    assert upload(folder).new


def test_a_hub_that_does_not_answer_is_named(hub: StandIn, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")

    with pytest.raises(
        PublishError, match=r"http://127.0.0.1:9 does not answer .* start the same command again"
    ):
        Hub()


@pytest.mark.parametrize("name", ["", "a/b/c", "../up", "with blank", "-x", "x--y", "a/", "x" * 97, "ä"])
def test_a_name_that_cannot_be_one_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"--repo .* is no name of a repository"):
        valid_repo("--repo", name)


@pytest.mark.parametrize("name", ["digits", "ana/digits", "ana-b/resnet50.v2_x"])
def test_a_name_that_can_be_one_is_taken(name: str) -> None:
    assert valid_repo("--repo", name) == name
