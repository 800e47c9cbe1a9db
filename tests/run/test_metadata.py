"""The tags of a run say by how much of what it was trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import ALONE
from trainer.config import Recipe
from trainer.dataset import Dataset
from trainer.run import Plan
from trainer.run._metadata import run_tags


@pytest.mark.parametrize(("processes", "of_each", "machines"), [("8", "4", "2"), ("4", "4", "1")])
def test_a_run_says_how_many_machines_have_trained_it(
    monkeypatch: pytest.MonkeyPatch,
    tiny: Recipe,
    dataset: Dataset,
    tmp_path: Path,
    processes: str,
    of_each: str,
    machines: str,
) -> None:
    place = {"RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "first", "MASTER_PORT": "1"}
    for name, value in {**place, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": of_each}.items():
        monkeypatch.setenv(name, value)

    assert run_tags(Plan(tiny, dataset, tmp_path), ALONE)["machines"] == machines


def test_a_process_alone_is_on_one_machine(tiny: Recipe, dataset: Dataset, tmp_path: Path) -> None:
    assert run_tags(Plan(tiny, dataset, tmp_path), ALONE)["machines"] == "1"
