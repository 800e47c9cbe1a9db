"""Runs beside each other: what each had reached when as much was spent, and what differs in their settings."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.report.runs import SECONDS, evaluated_run
from trainer.config import Recipe
from trainer.report import (
    apart,
    as_data,
    compare,
    compare_page,
    compare_svg,
    ema_of,
    extensions,
    mark_of,
    settings_of,
)
from trainer.tracking import RunHistory, read_journal


def named(*folders: Path) -> list[tuple[str, RunHistory]]:
    return [(folder.name, read_journal(folder)) for folder in folders]


@pytest.fixture
def fast_and_slow(tmp_path: Path) -> list[tuple[str, RunHistory]]:
    """The slow one takes twice as long for an epoch, learns more in it, and costs three times as much an hour."""
    return named(
        evaluated_run(tmp_path / "fast", top1=[0.2, 0.4, 0.6, 0.55], usd=1),
        evaluated_run(tmp_path / "slow", top1=[0.3, 0.5], speed=0.5, usd=3, ema_decay=0.9),
    )


def test_they_are_compared_at_equal_epochs_hours_and_dollars_up_to_the_end_of_the_shortest(
    fast_and_slow: list[tuple[str, RunHistory]],
) -> None:
    (group,) = compare(fast_and_slow)
    hour = SECONDS / 3600  # of an epoch of the fast one

    assert group.equal("epochs") == [(1, (0.2, 0.3)), (2, (0.4, 0.5))]
    hours = dict(group.equal("hours"))
    assert list(hours) == pytest.approx([hour, 2 * hour, 3 * hour, 4 * hour])
    assert list(hours.values())[1:] == [(0.4, 0.3), (0.6, 0.3), (0.55, 0.5)]
    assert math.isnan(next(iter(hours.values()))[1]), "the slow one was not measured by then"
    dollars = dict(group.equal("usd"))
    assert list(dollars)[-1] == pytest.approx(4 * hour), "what all of the fast one cost"
    assert math.isnan(list(dollars.values())[-1][1]), "for which the slow one had no epoch"


def test_each_run_says_what_it_reached_and_on_what(fast_and_slow: list[tuple[str, RunHistory]]) -> None:
    (group,) = compare(fast_and_slow)
    fast, slow = group.runs
    assert extensions(group) == ""

    assert (fast.number, fast.name, fast.epochs, fast.device) == (1, "fast", 4, "2 x NVIDIA T4")
    assert (fast.best_top1, fast.best_epoch, fast.final_top1) == (0.6, 3, 0.55)
    assert (fast.ema_decay, slow.ema_decay) == (0, 0.9)
    assert slow.images_per_second == pytest.approx(fast.images_per_second / 2)
    assert slow.hours == pytest.approx(fast.hours)
    assert slow.usd == pytest.approx(3 * fast.usd)


def test_an_extension_is_compared_by_epochs_but_not_by_hours_and_dollars_which_another_run_has_spent(
    tmp_path: Path,
) -> None:
    (group,) = compare(
        named(
            evaluated_run(tmp_path / "whole", top1=[0.1, 0.2, 0.3, 0.4], usd=1),
            evaluated_run(
                tmp_path / "longer", top1=[math.nan] * 2 + [0.5, 0.6], usd=1, tags={"parent_epochs": "2"}
            ),
        )
    )
    whole, longer = group.runs

    assert (longer.epochs, longer.parent_epochs, longer.best_top1) == (4, 2, 0.6)
    assert math.isnan(longer.hours)
    assert math.isnan(longer.usd)
    assert group.equal("epochs")[-1] == (4, (0.4, 0.6))
    assert group.equal("hours") == group.equal("usd") == []
    assert math.isfinite(whole.usd)
    assert "Run 2 (2): in brackets the epochs of the run that it extends." in extensions(group)
    assert extensions(group) in compare_page([group])
    compare_svg([group])


@pytest.mark.parametrize(
    ("decay", "phases", "said"),
    [
        (0.0, [], "no"),
        (0.9, [{"at": 0.5, "mixup": 0.1}], "0.9"),
        (0.0, [{"at": 0.5, "ema_decay": 0.999}], "0.999 from 0.5 on"),
        (
            0.9,
            [{"at": 0.25, "ema_decay": 0.99}, {"at": 0.75, "ema_decay": 0.0}],
            "0.9, 0.99 from 0.25 on, no from 0.75 on",
        ),
    ],
)
def test_a_moving_average_that_a_phase_switches_on_is_shown(
    tmp_path: Path, decay: float, phases: list[dict[str, float]], said: str
) -> None:
    run = evaluated_run(tmp_path / "a", ema_decay=decay, phases=phases)
    (group,) = compare(named(run))

    assert ema_of(group.runs[0]) == said
    assert f">{said}</td>" in compare_page([group])


def test_only_settings_that_differ_are_shown_each_value_with_its_runs(tmp_path: Path) -> None:
    older = {
        "global_batch": 10,
        "epochs": 8,
        "registered_model_name": "tiny",
    }  # by a program that did not know the other settings
    three = named(
        evaluated_run(tmp_path / "a", params=older),
        evaluated_run(tmp_path / "b", **{"optimizer.base_lr": 0.5}),
        evaluated_run(tmp_path / "c", **{"preprocess.crop_area": [0.25, 1.0], "description": "another word"}),
    )
    (group,) = compare(three)

    assert settings_of(group) == [
        ("optimizer.base_lr", "0.1 (1, 3), 0.5 (2)"),
        ("preprocess.crop_area", "[0.08, 1.0] (1, 2), [0.25, 1.0] (3)"),
    ]


def test_runs_of_other_validation_images_stand_apart(tmp_path: Path) -> None:
    groups = compare(
        named(
            evaluated_run(tmp_path / "a"),
            evaluated_run(tmp_path / "b", val_digest="e" * 64),
            evaluated_run(tmp_path / "c"),
        )
    )

    assert [[run.number for run in group.runs] for group in groups] == [[1, 3], [2]]
    assert apart(groups[1], groups) == (
        "Run 2: validation images of their own (eeeeeeeeeeee), so not compared with the other runs"
    )
    assert groups[1].equal("epochs") == []
    assert "eeeeeeeeeeee" in compare_page(groups)


def test_without_a_price_there_are_no_dollars_but_for_that_which_is_given(tmp_path: Path) -> None:
    two = named(evaluated_run(tmp_path / "a"), evaluated_run(tmp_path / "b"))

    assert compare(two)[0].equal("usd") == []
    assert compare(two, price=2.0)[0].runs[0].usd == pytest.approx(2 * 2 * SECONDS / 3600)


def test_a_price_that_is_given_is_of_each_machine_and_that_of_a_run_of_all(tmp_path: Path) -> None:
    three = named(
        evaluated_run(tmp_path / "one"),
        evaluated_run(tmp_path / "two", tags={"machines": "2"}),
        evaluated_run(tmp_path / "told", usd=1, tags={"machines": "2"}),
    )
    (group,) = compare(three, price=3.0)

    hours = 2 * SECONDS / 3600
    assert [run.usd for run in group.runs] == pytest.approx([3 * hours, 6 * hours, 1 * hours])


def test_a_run_that_has_measured_nothing_yet_is_shown_with_gaps(tmp_path: Path) -> None:
    (group,) = compare(named(evaluated_run(tmp_path / "a"), evaluated_run(tmp_path / "new", top1=[])))

    assert (group.runs[1].epochs, group.runs[1].best_epoch) == (0, 0)
    assert math.isnan(group.runs[1].final_top1)
    assert as_data([group])[0]["runs"][1]["final_top1"] is None
    compare_page([group])
    compare_svg([group])


def test_the_page_is_one_file_that_asks_nobody_and_escapes_names(
    fast_and_slow: list[tuple[str, RunHistory]],
) -> None:
    hostile = [("<script>alert(1)</script>$x$", history) for _, history in fast_and_slow]
    page = compare_page(compare(hostile))

    assert page.count("<svg ") == 4, "by epochs, hours, dollars; and the loss"
    assert "<script>alert" not in page
    assert "http://" not in page.replace("http://www.w3.org/", "")
    assert "60.00 in epoch 3" in page
    drawn = ElementTree.fromstring(compare_svg(compare(fast_and_slow)))
    words = " ".join(drawn.itertext())
    assert "Top-1 at equal dollars" in words
    assert "1 fast" in " ".join(words.split())


@pytest.mark.parametrize(
    ("axis", "mark", "says"),
    [
        ("epochs", 12.0, "epoch 12"),
        ("hours", 13.25, "13.2 h"),
        ("hours", 0.5, "30 min"),
        ("hours", 0.00244, "8.78 s"),
        ("usd", 25.456, "$25.46"),
        ("usd", 0.000999, "$0.001"),
    ],
)
def test_what_was_spent_has_a_unit_in_which_it_is_no_tiny_number(axis: str, mark: float, says: str) -> None:
    assert mark_of(axis, mark) == says


def test_the_data_is_json_without_nan(fast_and_slow: list[tuple[str, RunHistory]]) -> None:
    data: Any = json.loads(json.dumps(as_data(compare(fast_and_slow)), allow_nan=False))

    assert data[0]["settings"] == {"ema_decay": [Recipe.ema_decay, 0.9]}
    assert data[0]["runs"][0]["course"]["top1"] == [0.2, 0.4, 0.6, 0.55]
    assert data[0]["equal"]["epochs"][0] == {"epochs": 1.0, "top1": [0.2, 0.3]}
