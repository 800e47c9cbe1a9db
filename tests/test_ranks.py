"""A process is one of several if torchrun says so, all of it; half an environment is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from trainer import ranks
from trainer.cli import main
from trainer.errors import ConfigError

WHOLE = {
    "RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "2",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ranks.OURS:
        monkeypatch.delenv(name, raising=False)


def place() -> tuple[int, int, int, int]:
    return ranks.rank(), ranks.world_size(), ranks.local_rank(), ranks.local_world_size()


def test_torchruns_environment_is_a_place_and_none_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (ranks.under_torchrun(), place()) == (False, (0, 1, 0, 1))

    for name, value in WHOLE.items():
        monkeypatch.setenv(name, value)
    assert (ranks.under_torchrun(), place()) == (True, (1, 4, 1, 2))


def test_the_address_of_a_cluster_makes_nobody_a_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MASTER_ADDR", "MASTER_PORT", ranks.LAUNCHED):
        monkeypatch.setenv(name, "1")

    assert (ranks.under_torchrun(), ranks.launched_by_trainer(), place()) == (False, False, (0, 1, 0, 1))


HALVES = [
    {"RANK": "1"},
    {"RANK": "0"},
    {"WORLD_SIZE": "2"},
    {"LOCAL_RANK": "0"},
    {"RANK": "0", "WORLD_SIZE": "2"},
    {name: value for name, value in WHOLE.items() if name != "MASTER_ADDR"},
    {**WHOLE, "RANK": "first"},
    {**WHOLE, "WORLD_SIZE": "-1"},
]


@pytest.mark.parametrize("half", HALVES, ids=lambda half: ",".join(f"{k}={v}" for k, v in half.items()))
@pytest.mark.parametrize(
    "command",
    [
        ["train", "digits", "--set", "classes=2", "--set", "global_batch=8"],
        ["find-lr", "digits", "--set", "classes=2"],
        ["evaluate", "runs/r"],
    ],
)
def test_half_an_environment_is_refused_with_what_to_unset(
    half: dict[str, str],
    command: list[str],
    photos: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name, value in half.items():
        monkeypatch.setenv(name, value)

    assert main([*command, "--data", str(photos), "--device", "cpu"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("trainer: the environment ")
    assert "; unset " in said
    assert all(name in said for name in half if name in ranks.RANK and len(half) < len(WHOLE))


def test_a_number_of_processes_that_torchrun_contradicts_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in WHOLE.items():
        monkeypatch.setenv(name, value)

    ranks.require_nproc(None)
    ranks.require_nproc(2)
    with pytest.raises(
        ConfigError, match="--nproc-per-node 1 was asked for and torchrun's environment says 2"
    ):
        ranks.require_nproc(1)
    monkeypatch.setenv(ranks.LAUNCHED, "1")
    ranks.require_nproc(4)  # our own arguments, handed on
