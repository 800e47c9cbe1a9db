"""Phases of a recipe: what is in force when, and what is refused."""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any, get_type_hints

import pytest

from trainer.config import Phase, PhasePreprocess, Preprocess, Recipe, load_recipe, stored_recipe
from trainer.errors import ConfigError
from trainer.instances import find_instance
from trainer.performance import estimate

TWO = "phases=[{at: 0.5, mixup: 0.2}, {at: 0.9, mixup: 0, preprocess: {train_size: 64, erasing: 0.1}}]"


def phased(*settings: str, epochs: int = 20) -> Recipe:
    return load_recipe("digits", [f"epochs={epochs}", *settings])


def test_a_phase_lasts_until_the_next_one_sets_something_else() -> None:
    recipe = phased(TWO, "cutmix=1.0")
    parts = [recipe.at(epoch) for epoch in range(20)]

    assert [part.mixup for part in parts] == 10 * [0] + 8 * [0.2] + 2 * [0]
    assert {part.cutmix for part in parts} == {1.0}
    assert [part.preprocess.erasing for part in parts] == 18 * [0] + 2 * [0.1]
    assert len({id(part) for part in parts}) == 3, "the same object within a phase"
    assert recipe.at(1000) is parts[-1], "where only a benchmark goes"
    assert {part.phases for part in parts} == {()}


@pytest.mark.parametrize(
    ("at", "epochs", "first"), [(0.9, 30, 27), (0.55, 100, 55), (0.55, 10, 6), (0.01, 10, 1), (1e-9, 2, 1)]
)
def test_a_phase_begins_with_the_first_epoch_that_begins_at_its_share_or_later(
    at: float, epochs: int, first: int
) -> None:
    recipe = phased(f"phases=[{{at: {at:.9f}, mixup: 0.2}}]", "schedule.warmup_epochs=0", epochs=epochs)

    assert [recipe.at(epoch).mixup for epoch in (first - 1, first)] == [0, 0.2]


def test_which_numbers_of_epochs_the_phases_allow_is_known_without_trying() -> None:
    recipe = phased("phases=[{at: 0.5, mixup: 0.2}, {at: 0.6, mixup: 0}]", "schedule.warmup_epochs=0")

    for epochs in range(1, 30):
        try:
            replace(recipe, epochs=epochs)
        except ValueError:
            assert not recipe.phases_fit(epochs)
        else:
            assert recipe.phases_fit(epochs)
    assert [epochs for epochs in range(1, 8) if recipe.phases_fit(epochs)] == [4, 6, 7]


def test_the_size_of_a_phase_is_that_of_all_its_crops_and_the_largest_is_measured() -> None:
    ramp = ("preprocess.min_res=16", "preprocess.ramp=[0,1]", "preprocess.res_step=8")
    recipe = phased(*ramp, "phases=[{at: 0.5, preprocess: {train_size: 40}}]", epochs=8)

    assert [recipe.train_size(epoch) for epoch in range(8)] == [16, 16, 16, 24, 40, 40, 40, 40]
    assert recipe.full_res == 40
    assert recipe.at_full_res().preprocess.train_size == 40
    assert {recipe.at_full_res().train_size(epoch) for epoch in range(8)} == {40}
    assert recipe.at_full_res().phases == ()
    smaller = phased("phases=[{at: 0.5, preprocess: {train_size: 8}}]", epochs=4)
    assert [smaller.train_size(epoch) for epoch in range(4)] == [32, 32, 8, 8]
    assert smaller.full_res == 32


def test_an_estimate_counts_the_pixels_of_each_phase() -> None:
    """A GPU's throughput is given at the largest size: 3 epochs of a quarter of its pixels, and one of all."""
    machine = find_instance("p4d.24xlarge")

    def hours(*settings: str) -> float:
        recipe = phased("preprocess.train_size=112", *settings, epochs=4)
        return estimate(recipe, machine, images=(10**6, 0), gpu_images_per_second=100).hours

    assert hours("phases=[{at: 0.7, preprocess: {train_size: 224}}]") == pytest.approx(
        hours() * (3 / 4 + 1) / 4
    )


def test_a_phase_is_written_down_as_it_was_given_and_read_again() -> None:
    recipe = phased(TWO)
    written = json.loads(json.dumps(recipe.as_dict()))

    assert written["phases"] == [
        {"at": 0.5, "mixup": 0.2},
        {"at": 0.9, "mixup": 0.0, "preprocess": {"train_size": 64, "erasing": 0.1}},
    ]
    assert list(recipe.flat()["phases"]) == written["phases"]
    assert stored_recipe(recipe.as_dict()) == stored_recipe(written) == recipe
    assert recipe.differences(written) == {}
    assert recipe.digest() == stored_recipe(written).digest() != phased().digest()
    assert phased(f"phases={json.dumps(written['phases'])}") == recipe
    assert list(phased().differences(written)) == ["phases"]
    del written["phases"]
    assert phased().differences(written) == {}, "of an earlier program"


def test_a_phase_is_described_with_the_epoch_that_the_log_shows() -> None:
    assert phased(TWO).describe_phases() == {
        10: "from epoch 11 on: mixup 0.2",
        18: "from epoch 19 on: mixup 0.0, preprocess.train_size 64, preprocess.erasing 0.1",
    }
    assert phased().describe_phases() == {}


def test_an_ema_is_kept_if_any_part_of_the_run_averages() -> None:
    assert phased("phases=[{at: 0.5, ema_decay: 0.9}]").uses_ema
    assert phased("ema_decay=0.9", "phases=[{at: 0.5, ema_decay: 0}]").uses_ema
    assert not phased(TWO).uses_ema


@pytest.mark.parametrize(("whole", "part"), [(Recipe, Phase), (Preprocess, PhasePreprocess)])
def test_a_phase_takes_the_values_that_the_whole_run_takes(whole: Any, part: Any) -> None:
    run, phase = (get_type_hints(one, include_extras=True) for one in (whole, part))

    for field in fields(part):
        if field.name not in ("at", "preprocess"):
            assert phase[field.name] == run[field.name] | None, field.name


@pytest.mark.parametrize(
    ("phases", "says"),
    [
        ("{at: 0.9}", "phases = {'at': 0.9}: must be a list"),
        ("[0.9]", "phases.0 = 0.9: must be KEY: VALUE pairs"),
        ("[{mixup: 1}]", "the setting phases.0.at is missing"),
        ("[{at: 1, mixup: 1}]", "phases.0.at = 1: must be less than 1"),
        ("[{at: 0, mixup: 1}]", "phases.0.at = 0: must be greater than 0"),
        ("[{at: 0.5, mixup: -1}]", "phases.0.mixup = -1: must be greater than or equal to 0"),
        ("[{at: 0.9, mixup: 1}, {at: 0.5, cutmix: 1}]", "growing shares of the run, not at=0.5 after at=0.9"),
        ("[{at: 0.5, mixup: 1}, {at: 0.5, cutmix: 1}]", "growing shares of the run, not at=0.5 after at=0.5"),
        (
            "[{at: 0.51, mixup: 1}, {at: 0.52, cutmix: 1}]",
            "at=0.51 and at=0.52 would both begin with epoch 12 of 20",
        ),
        ("[{at: 0.98, mixup: 1}]", "at=0.98 would begin after the last of 20 epochs"),
        ("[{at: 0.98, mixup: 1}]", "use epochs=50 or more"),
        ("[{at: 0.9999999999, mixup: 1}]", "would begin after the last of 20 epochs"),
        ("[{at: 0.5}]", "the phase at=0.5 changes nothing"),
        ("[{at: 0.5, mixup: 0}]", "the phase at=0.5 changes nothing"),
        ("[{at: 0.5, mixup: 1}, {at: 0.9, mixup: 1}]", "the phase at=0.9 changes nothing"),
        ("[{at: 0.5, epochs: 9}]", "epochs cannot change in a phase; what can: label_smoothing, mixup, "),
        ("[{at: 0.5, optimizer: {base_lr: 9}}]", "optimizer.name cannot change in a phase"),
        ("[{at: 0.5, lr: 9}]", "optimizer.base_lr cannot change in a phase"),
        ("[{at: 0.5, preprocess: {val_size: 9}}]", "preprocess.val_size cannot change in a phase"),
        ("[{at: 0.5, phases: []}]", "phases cannot change in a phase"),
        ("[{at: 0.5, mixupp: 0}]", "there is no setting phases.0.mixupp; did you mean mixup?"),
        ("[{at: 0.5, erasing: 0}]", "did you mean preprocess: {erasing: …}?"),
        ("[{at: 0.5, preprocess.erasing: 0}]", "did you mean preprocess: {erasing: …}?"),
        ("[{at: 0.5, preprocess: {eraing: 0}}]", "did you mean preprocess: {erasing: …}?"),
        ("[{at: 0.5, quux: 0}]", "there is no setting phases.0.quux; docs/recipes.md lists all settings"),
        (
            "[{at: 0.5, preprocess: {crop_area: [0.9, 0.1]}}]",
            "the phase at=0.5: crop_area must be two growing numbers up to 1",
        ),
        ("[{at: 0.5, mixup: 1, mixup: 0}]", "mixup stands twice"),
    ],
)
def test_a_phase_that_cannot_be_meant_is_refused_in_one_sentence(phases: str, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        phased(f"phases={phases}")

    assert says in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("word", ["phase", "mixup_off_epoch", "fixres"])
def test_other_words_for_phases_are_known(word: str) -> None:
    with pytest.raises(ConfigError, match=r"did you mean phases\?"):
        phased(f"{word}=1")
