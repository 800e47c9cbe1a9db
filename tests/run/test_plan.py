"""Which run a command means: its identity is the stored recipe, compared as a whole."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from trainer.config import Optimizer, Recipe
from trainer.errors import ConfigError
from trainer.run import Plan, TrainOptions, make_plan, read_result
from trainer.tracking import read_run_ref

SMALL = ("global_batch=8", "classes=null")


def plan(photos: Path, runs: Path, *settings: str, **options: Any) -> Plan:
    return make_plan(
        TrainOptions(recipe="digits", data=photos, runs=runs, set=(*SMALL, *settings), **options)
    )


def begun(made: Plan) -> Plan:
    """The plan, of a run that was begun."""
    made.folder.mkdir(parents=True)
    made.write()
    return made


def test_the_same_settings_and_images_are_the_same_run(photos: Path, tmp_path: Path) -> None:
    first = begun(plan(photos, tmp_path))

    assert plan(photos, tmp_path).folder == first.folder
    assert plan(photos, tmp_path, "optimizer.momentum=0.9").folder == first.folder, "the default, written out"


@pytest.mark.parametrize(
    "options", [{"batch_per_gpu": 2}, {"compile": "default"}, {"decoder": "cpu"}, {"nproc_per_node": 2}]
)
def test_how_the_machine_executes_it_does_not_count(
    photos: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    first = begun(plan(photos, tmp_path))

    assert plan(photos, tmp_path, **options).folder == first.folder


def test_other_settings_images_or_names_are_other_runs(photos: Path, digits: Path, tmp_path: Path) -> None:
    folders = {
        begun(made).folder
        for made in (
            plan(photos, tmp_path),
            plan(photos, tmp_path, "seed=1"),
            plan(digits, tmp_path),
            plan(photos, tmp_path, name="second"),
        )
    }

    assert len(folders) == 4


def test_a_run_whose_name_begins_alike_is_another_run(photos: Path, tmp_path: Path) -> None:
    again = begun(plan(photos, tmp_path, name="digits-2"))
    first = plan(photos, tmp_path)

    assert first.folder != again.folder
    assert plan(photos, tmp_path, name="digits-2").folder == again.folder


def test_a_new_run_says_how_it_differs_from_the_one_that_is_there(photos: Path, tmp_path: Path) -> None:
    """Who sets more epochs may mean to go on."""
    first = begun(plan(photos, tmp_path, "epochs=3"))
    begun(plan(photos, tmp_path, "epochs=3", "seed=1", "mixup=0.2"))
    (tmp_path / "digits-0123456789").mkdir()

    assert (
        plan(photos, tmp_path, "epochs=5").news
        == f"{first.folder} has epochs=3 instead of 5; this is a new run"
    )
    assert plan(photos, tmp_path, "epochs=3").news == ""
    assert plan(photos, tmp_path / "empty").news == ""


def test_a_run_folder_that_is_a_file_or_too_long_a_name_is_no_run(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for runs, reason in (
        (tmp_path / "file", "Not a directory"),
        (tmp_path / ("x" * 300), "File name too long"),
    ):
        with pytest.raises(ConfigError, match=f"--runs .* cannot be used: {reason}"):
            plan(photos, runs)

        assert read_result(runs / "run") is None
        assert read_run_ref(runs / "run") is None


@pytest.mark.parametrize("name", ["/tmp/absolute", "a/b", ".hidden", "", "x" * 260, "a\nb", "\udce9"])
def test_a_name_that_is_no_folder_is_refused(photos: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="cannot name a folder"):
        plan(photos, tmp_path, name=name)


def test_a_start_that_was_cut_off_between_both_files_is_written_again(photos: Path, tmp_path: Path) -> None:
    made = begun(plan(photos, tmp_path))
    (made.folder / "dataset.json").unlink()
    (made.folder / "recipe.json").write_text("{}")
    plan(photos, tmp_path).write()

    assert json.loads((made.folder / "recipe.json").read_text())["global_batch"] == 8


def test_a_default_that_has_changed_since_is_refused_with_how_to_go_on(photos: Path, tmp_path: Path) -> None:
    """As after an upgrade: the run must not go on with other hyper-parameters without a word."""
    first = begun(plan(photos, tmp_path))
    stored = json.loads((first.folder / "recipe.json").read_text())
    stored["optimizer"]["momentum"] = 0.8  # the default of the version that began it
    (first.folder / "recipe.json").write_text(json.dumps(stored))

    with pytest.raises(ConfigError, match=r"begun with optimizer\.momentum=0\.8 instead of 0\.9; go on"):
        plan(photos, tmp_path)
    assert plan(photos, tmp_path, "optimizer.momentum=0.8").folder == first.folder
    assert plan(photos, tmp_path, name="new").folder != first.folder


def test_a_run_of_an_earlier_version_goes_on_with_settings_it_did_not_know(
    photos: Path, tmp_path: Path
) -> None:
    first = begun(plan(photos, tmp_path))
    stored = json.loads((first.folder / "recipe.json").read_text())
    del stored["cutmix"], stored["optimizer"]["nesterov"]
    (first.folder / "recipe.json").write_text(json.dumps(stored))

    assert plan(photos, tmp_path).folder == first.folder
    assert plan(photos, tmp_path, "cutmix=1").folder != first.folder


def test_a_setting_of_a_later_version_is_a_difference() -> None:
    recipe = Recipe(registered_model_name="x")

    assert recipe.differences(recipe.as_dict()) == {}
    assert recipe.differences({**recipe.as_dict(), "sam_rho": 0.05}) == {"sam_rho": (0.05, None)}
    changed = dataclasses.replace(recipe, name="y", optimizer=Optimizer(momentum=0.5))
    assert changed.differences(recipe.as_dict()) == {"optimizer.momentum": (0.9, 0.5)}


def test_what_the_run_is_made_of_is_written_once(photos: Path, tmp_path: Path) -> None:
    first = begun(plan(photos, tmp_path))
    before = {path.name: path.read_bytes() for path in first.folder.iterdir()}
    plan(photos, tmp_path).write()

    assert before.keys() == {"recipe.json", "dataset.json"}
    assert {path.name: path.read_bytes() for path in first.folder.iterdir()} == before
    assert json.loads(before["dataset.json"])["class_names"] == ["cat", "dog"]


def test_nothing_is_written_for_a_plan(photos: Path, tmp_path: Path) -> None:
    plan(photos, tmp_path / "runs")

    assert not list(tmp_path.iterdir())


def test_the_folder_of_one_run_is_not_that_of_all_runs(photos: Path, tmp_path: Path) -> None:
    (tmp_path / "recipe.json").write_text("{}")

    with pytest.raises(ConfigError, match=f"give that of all runs, {tmp_path.parent}"):
        make_plan(TrainOptions(recipe="digits", data=photos, runs=tmp_path, set=SMALL))
