"""A message that names a folder of the container says what it is outside."""

from __future__ import annotations

import os

import pytest

from trainer.cli._host import FOLDERS, with_host_folders


@pytest.fixture(autouse=True)
def in_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting, outside in {"DATA_DIR": "/mnt/imagenet", "RUNS_DIR": "runs"}.items():
        monkeypatch.setenv(f"TRAINER_{setting}", outside)


@pytest.mark.parametrize(
    ("said", "note"),
    [
        (
            "recipe rn50-75 is for 1,000 classes and /data has 10",
            " (/data is /mnt/imagenet, DATA_DIR in .env)",
        ),
        ("/data/dataset.json is damaged", " (/data is /mnt/imagenet, DATA_DIR in .env)"),
        ("the run in /runs/digits-1 was begun", " (/runs is the Docker volume runs, RUNS_DIR in .env)"),
        ("/mnt/data, data/x, /database and /data-2 are others", ""),
        ("the archive /archives/x.zip is not set here", ""),
    ],
)
def test_the_folder_outside_stands_behind_the_sentence(said: str, note: str) -> None:
    assert with_host_folders(said) == said + note


def test_a_folder_of_somebody_else_comes_with_the_command_that_gives_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    said = with_host_folders("/data/.preparing cannot be used: Permission denied")

    assert said.endswith(
        f"; to let the container write there: sudo chown {os.getuid()}:{os.getgid()} /mnt/imagenet)"
    )


def test_outside_of_the_stack_nothing_is_added(monkeypatch: pytest.MonkeyPatch) -> None:
    for setting in FOLDERS.values():
        monkeypatch.delenv(f"TRAINER_{setting}", raising=False)

    assert with_host_folders("/data is not there") == "/data is not there"
