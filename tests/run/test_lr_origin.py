"""A run and the range test that suggested its learning rate know each other."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.report.runs import evaluated_run
from trainer.config import Recipe
from trainer.dataset import Dataset
from trainer.run import Plan
from trainer.run._lr_origin import lr_origin
from trainer.tracking import FIND_LR_NAME, FIND_LR_RUN, read_run_ref, sync, tracking_uri
from trainer.tracking._server import connect

RECIPE = Recipe(registered_model_name="tiny", global_batch=10, epochs=8)


def range_test(folder: Path, *, steepest: float = 0.0123456, **changed: Any) -> Path:
    found = {"kind": "find-lr", "find_lr.steepest": str(steepest), "find_lr.min_div_10": "0.5"}
    return evaluated_run(folder, top1=[], tags=found, **changed)


def origin(runs: Path, dataset: Dataset, *, peak: float = 0.0123456, **changed: Any) -> dict[str, str]:
    """Tags of a run with this peak learning rate, as `--set optimizer.base_lr=` of three digits makes it."""
    base_lr = float(f"{peak * 256 / 10:.3g}")
    recipe = replace(RECIPE, optimizer=replace(RECIPE.optimizer, base_lr=base_lr), **changed)
    return lr_origin(Plan(recipe, dataset, runs / "digits-0123456789")).tags


def test_the_newest_test_that_suggested_the_rate_is_named(tmp_path: Path, dataset: Dataset) -> None:
    range_test(tmp_path / "find-lr-1")
    range_test(tmp_path / "find-lr-2")
    range_test(tmp_path / "find-lr-3", steepest=0.02)

    assert origin(tmp_path, dataset) == {FIND_LR_NAME: "find-lr-2"}
    assert origin(tmp_path, dataset, peak=0.5) == {FIND_LR_NAME: "find-lr-3"}, "its minimum / 10"


@pytest.mark.parametrize(
    "changed",
    [
        {"peak": 0.0125},
        {"global_batch": 20},
        {"model": "resnet18"},
        {"name": "other"},
        {"experiment_name": "b"},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_a_test_of_something_else_is_not(tmp_path: Path, dataset: Dataset, changed: dict[str, Any]) -> None:
    range_test(tmp_path / "find-lr-1")

    assert origin(tmp_path, dataset, **changed) == {}


def test_both_are_linked_in_mlflow(tmp_path: Path, dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    test = range_test(tmp_path / "find-lr-1")
    sync(test, follow=False)
    found = lr_origin(
        Plan(
            replace(RECIPE, optimizer=replace(RECIPE.optimizer, base_lr=0.316)), dataset, tmp_path / "digits"
        )
    )
    ref = read_run_ref(test)
    assert ref
    assert found.tags == {FIND_LR_NAME: "find-lr-1", FIND_LR_RUN: ref.run_id}
    page = f"#/experiments/{ref.experiment_id}/runs/"
    assert f"found by [find-lr-1]({page}{ref.run_id}?" in found.sentence

    sync(evaluated_run(tmp_path / "digits", tags=found.tags), follow=False)
    used = read_run_ref(tmp_path / "digits")
    assert used
    tags = connect(tracking_uri(tmp_path)).get_run(ref.run_id).data.tags
    assert tags[f"used_by.{used.run_id}"] == "digits"
    assert f"Its learning rate is used by [digits]({page}{used.run_id}?" in tags["mlflow.note.content"]
    shutil.rmtree(tmp_path / "digits")
    sync(test, follow=False)
    assert (
        "is used by [digits]"
        in connect(tracking_uri(tmp_path)).get_run(ref.run_id).data.tags["mlflow.note.content"]
    )
