"""Budgets in the loop: time that is over, a forecast that says so, and a target that is reached."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.conftest import ALONE
from trainer import metrics
from trainer.checkpoint import list_checkpoints
from trainer.config import Recipe
from trainer.dataset import Dataset
from trainer.errors import Stopped
from trainer.tracking import NullLog
from trainer.training import Budget, train


class Notes(NullLog):
    """A run's log that remembers its steps and what was measured."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.top1: dict[int, float] = {}

    def step_done(self, step: int) -> None:
        self.steps.append(step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if metrics.VAL_TOP1 in values:
            self.top1[step] = values[metrics.VAL_TOP1]


@pytest.fixture(scope="module")
def small(tiny: Recipe) -> Recipe:
    """Three epochs of two steps."""
    return replace(tiny, model="tests.nets:Small")


@pytest.fixture(scope="module")
def unbroken(
    small: Recipe, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, torch.Tensor], dict[int, float]]:
    """Weights of a run without a budget, and the accuracy after each epoch."""
    notes = Notes()
    model, _ = train(small, dataset, tmp_path_factory.mktemp("unbroken"), ALONE, notes)
    return dict(model.state_dict()), notes.top1


def test_a_stop_is_asked_for_with_its_reason_when_the_time_is_over() -> None:
    asked, reasons = threading.Event(), []

    def ask(reason: str) -> None:
        reasons.append(reason)
        asked.set()

    with Budget(seconds=0.01, reason="because --max-hours 2 is spent").watch(ask) as budget:
        assert asked.wait(10)
    assert reasons == ["because --max-hours 2 is spent"]
    assert budget.spent == "because --max-hours 2 is spent"


@pytest.mark.parametrize("seconds", [None, 1e300, 0.05])
def test_no_time_is_kept_that_is_not_limited_or_when_training_is_done(seconds: float | None) -> None:
    reasons: list[str] = []
    with Budget(seconds=seconds).watch(reasons.append) as budget:
        budget.close()
        threading.Event().wait(0.1)

    assert reasons == []
    assert not budget.spent


@pytest.mark.parametrize("step", [2, 3])
def test_a_run_stopped_by_its_budget_goes_on_to_the_weights_of_an_unbroken_one(
    small: Recipe,
    dataset: Dataset,
    tmp_path: Path,
    step: int,
    unbroken: tuple[dict[str, torch.Tensor], dict[int, float]],
) -> None:
    notes = Notes()
    budget = Budget(forecast=lambda now, values: "because of money" if now == step else None)
    with pytest.raises(
        Stopped,
        match=r"stopped because of money at step \d of 6, .* same command with a larger budget to go on",
    ):
        train(small, dataset, tmp_path, ALONE, notes, budget=budget)
    model, _ = train(small, dataset, tmp_path, ALONE, notes, budget=Budget(seconds=3600))

    assert notes.steps == [1, 2, 3, 4, 5, 6]
    torch.testing.assert_close(dict(model.state_dict()), unbroken[0], rtol=0, atol=0)
    assert notes.top1 == unbroken[1]


def test_a_run_without_any_time_left_begins_no_step(small: Recipe, dataset: Dataset, tmp_path: Path) -> None:
    notes = Notes()
    with pytest.raises(Stopped, match="stopped because it is spent at step 0 of 6"):
        train(small, dataset, tmp_path, ALONE, notes, budget=Budget(seconds=-5, reason="because it is spent"))

    assert notes.steps == []


def test_a_run_ends_after_the_evaluation_that_reaches_its_target(
    small: Recipe,
    dataset: Dataset,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    unbroken: tuple[dict[str, torch.Tensor], dict[int, float]],
) -> None:
    target = unbroken[1][2]  # after the first epoch
    assert target > 0
    notes = Notes()
    _, accuracy = train(small, dataset, tmp_path, ALONE, notes, budget=Budget(until_top1=target))

    assert notes.steps == [1, 2]
    assert accuracy.top1 == target
    assert list_checkpoints(tmp_path / "checkpoints")[0].name.startswith("step-00000002-")
    assert "after epoch 1 of 3: that is what --until-top1 asks for, so the run ends here" in caplog.text
    assert "its learning rate is still 0.0063 of 0.0063" in caplog.text

    # Killed before it was registered: the same command measures again and trains nothing.
    again = Notes()
    _, same = train(small, dataset, tmp_path, ALONE, again, budget=Budget(until_top1=target))
    assert (again.steps, same.top1) == ([], target)

    # With a higher target it goes on.
    train(small, dataset, tmp_path, ALONE, again, budget=Budget(until_top1=0.9999))
    assert again.steps[0] == 3


def test_a_target_that_was_reached_before_ends_a_run_at_its_next_evaluation(
    small: Recipe,
    dataset: Dataset,
    tmp_path: Path,
    unbroken: tuple[dict[str, torch.Tensor], dict[int, float]],
) -> None:
    notes = Notes()
    after_the_first = Budget(
        forecast=lambda now, values: "because of money" if metrics.EVALUATION_SECONDS in values else None
    )
    with pytest.raises(Stopped, match="because of money at step"):
        train(small, dataset, tmp_path, ALONE, notes, budget=after_the_first)
    assert notes.steps == [1, 2, 3]
    train(small, dataset, tmp_path, ALONE, notes, budget=Budget(until_top1=unbroken[1][2]))

    assert notes.steps == [1, 2, 3, 4]
    assert list(notes.top1) == [2, 4]


def test_a_target_that_is_not_reached_changes_nothing(
    small: Recipe,
    dataset: Dataset,
    tmp_path: Path,
    unbroken: tuple[dict[str, torch.Tensor], dict[int, float]],
) -> None:
    if max(unbroken[1].values()) == 1:
        pytest.skip("everything is right")
    model, _ = train(small, dataset, tmp_path, ALONE, Notes(), budget=Budget(until_top1=0.99999))

    torch.testing.assert_close(dict(model.state_dict()), unbroken[0], rtol=0, atol=0)
