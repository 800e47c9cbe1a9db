"""Recipes: what is right, what is wrong, and how it is said."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from trainer.config import load_recipe, shipped_recipes
from trainer.errors import ConfigError


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_shipped_recipe_is_valid(name: str) -> None:
    assert load_recipe(name).name == name


def test_the_baseline_scales_the_learning_rate_with_the_batch() -> None:
    recipe = load_recipe("rn50-baseline")

    assert recipe.peak_lr == pytest.approx(0.1 * recipe.global_batch / 256)
    assert (recipe.epochs, recipe.schedule.warmup_epochs, recipe.label_smoothing) == (90, 5, 0)
    assert (recipe.optimizer.momentum, recipe.optimizer.weight_decay) == (0.9, 1e-4)


@pytest.mark.parametrize(
    ("recipe", "overrides", "says"),
    [
        ("digit", [], "did you mean digits?"),
        ("digits", ["epoch=3"], "did you mean epochs?"),
        ("digits", ["lr=0.1"], "did you mean optimizer.base_lr?"),
        ("digits", ["optimizer.lr=0.1"], "did you mean optimizer.base_lr?"),
        ("digits", ["optimizer.learning_rate=0.1"], "did you mean optimizer.base_lr?"),
        ("digits", ["batch_size=32"], "did you mean global_batch?"),
        ("digits", ["batch=32"], "did you mean global_batch?"),
        ("digits", ["wd=0"], "did you mean optimizer.weight_decay?"),
        ("digits", ["amp=true"], "did you mean precision?"),
        ("digits", ["compile=true"], "it is an option of the command, --compile"),
        ("digits", ["workers=8"], "DALI's threads follow from the cores"),
        ("digits", ["drop_path=0.1"], "did you mean stochastic_depth?"),
        (
            "digits",
            ["preprocess.augment=timm_randaugment", "preprocess.randaugment_magnitude=11"],
            "must not exceed 10 in timm_randaugment",
        ),
        ("digits", ["schedule.momentum_range=[0.85,0.95]"], "is for schedule.name=onecycle"),
        (
            "rn50-onecycle",
            ["schedule.momentum_range=[0.85,0.95]", "optimizer.name=adamw"],
            "is for optimizer.name=sgd or sgdw",
        ),
        ("digits", ["optimiser.momentum=0.8"], "did you mean optimizer.momentum?"),
        ("digits", ["quux=1"], "no such setting; docs/recipes.md lists all settings"),
        ("digits", ["schedule.milestones=[0.6,0.3]"], "milestones must be growing shares"),
        ("digits", ["weight_decay=0"], "did you mean optimizer.weight_decay?"),
        ("digits", ["epochs"], "not KEY=VALUE"),
        ("digits", ["epochs=many"], "epochs = 'many': must be a valid integer"),
        ("digits", ["epochs=0"], "epochs = 0: must be greater than or equal to 1"),
        ("digits", ["precision=fp8"], "must be 'fp32', 'bf16' or 'fp16'"),
        ("digits", ["optimizer.momentum=.inf"], "must be a finite number"),
        ("digits", ["preprocess.val_size=300"], "val_size must not exceed val_resize"),
        ("digits", ["schedule.warmup_epochs=99"], "must be less than epochs"),
        ("digits", ["preprocess.crop_area=[0.5]"], "preprocess.crop_area"),
        ("digits", ["epochs=[1"], "not valid YAML"),
        ("digits", ["preprocess.min_res=64"], "min_res must not exceed train_size"),
        ("digits", ["preprocess.ramp=[0.8,0.4]"], "ramp must be two growing numbers"),
        ("digits", ["preprocess.randaugment_magnitude=31"], "must be less than or equal to 30"),
        ("digits", ["preprocess.color_jitter=[0,0,0,0.6]"], "must be less than or equal to 0.5"),
        ("digits", ["ema_decay=1"], "must be less than 1"),
        (
            "digits",
            ["optimizer.nesterov=true", "optimizer.momentum=0"],
            "needs an optimizer.momentum above 0",
        ),
        ("digits", ["seed=-1"], "seed = -1: must be greater than or equal to 0"),
        ("digits", [f"seed={2**64}"], f"seed = {2**64}: must be less than"),
        ("digits", [f"epochs={'9' * 5000}"], "not valid YAML"),
        ("digits", [f"epochs={'9' * 500}"], "must be less than or equal to 1000000000"),
        ("digits", ["epochs=2001-99-99"], "not valid YAML"),
        ("digits", [f"epochs={'[' * 5000}"], "not valid YAML"),
        ("digits", ["preprocess.train_size=100000"], "must be less than or equal to 4096"),
        ("digits", ["registered_model_name=a.b"], "letters, digits, - and _ only; use a-b"),
        (
            "digits",
            ["registered_model_name=a/b"],
            "registered_model_name = 'a/b': a model's name has letters",
        ),
        ("digits", ["registered_model_name=.."], "letters, digits, - and _ only"),
        ("digits", [f"registered_model_name={'x' * 300}"], "it is 300 bytes long"),
        ("digits", [f"registered_model_name={'я' * 150}"], "it is 300 bytes long"),
        ("digits", ["experiment_name=../x"], "experiment_name = '../x': an experiment's name has letters"),
        ("digits", ["experiment_name=''"], "an experiment's name has letters"),
        ("digits", ["experiment_name=[1]"], "must be a valid string"),
        ("missing.yaml", [], "missing.yaml cannot be read: No such file"),
    ],
)
def test_a_wrong_setting_is_named_with_what_would_be_right(
    recipe: str, overrides: list[str], says: str
) -> None:
    with pytest.raises(ConfigError, match=says.replace("?", r"\?").replace("[", r"\[")) as error:
        load_recipe(recipe, overrides)

    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epochs: 3", "registered_model_name is missing"),
        ("registered_model_name: x\nepoch: 3", "there is no setting epoch; did you mean epochs?"),
        (
            "registered_model_name: x\noptimizer: {momentun: 0.8}",
            "optimizer.momentun; did you mean optimizer.momentum?",
        ),
        ("registered_model_name: [", "is not YAML"),
        ("- a list", "KEY: VALUE"),
        ("", "KEY: VALUE"),
    ],
)
def test_a_wrong_recipe_file_is_refused_in_one_sentence(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)

    with pytest.raises(ConfigError, match=says.replace("?", r"\?")) as error:
        load_recipe(str(path))

    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("processes", "steps"), [(1, 8), (2, 4), (4, 2), (8, 1), (64, 1)])
def test_accumulation_follows_from_the_number_of_gpus(processes: int, steps: int) -> None:
    recipe = load_recipe("rn50-baseline", ["global_batch=1024"])

    assert recipe.accumulation_steps(processes, 128) == steps
    assert recipe.micro_batch(processes, 128) == 1024 // (processes * steps)
    assert recipe.accumulation_steps(processes, None) == 1


def test_a_batch_that_cannot_be_shared_evenly_is_refused_with_one_that_can() -> None:
    with pytest.raises(ConfigError, match="global_batch=1026"):
        load_recipe("rn50-baseline").accumulation_steps(3, None)


def test_a_batch_larger_than_the_data_set_is_refused() -> None:
    with pytest.raises(ConfigError, match="larger than the 100 training images"):
        load_recipe("rn50-baseline").steps_per_epoch(100)


def test_a_later_program_finds_the_folder_of_a_run() -> None:
    """Its name is made of this digest, which must not change with settings that are added."""
    expected = "fc4a26158435661d28279679e1bc0a6b85dd6d49fa710ebe0f59dfe9dd80f3ab"

    assert load_recipe("rn50-baseline").digest() == expected


@pytest.mark.parametrize(
    ("name", "epochs", "start_ramp", "end_ramp"),
    [("rn50-65", 16, 11, 13), ("rn50-75", 32, 23, 27), ("rn50-78", 88, 65, 76)],
)
def test_the_short_recipes_have_the_sizes_and_settings_of_the_published_ones(
    name: str, epochs: int, start_ramp: int, end_ramp: int
) -> None:
    """rn50_configs/*.yaml and `get_resolution` of libffcv/ffcv-imagenet."""
    recipe = load_recipe(name)

    def published(epoch: int) -> int:
        if epoch <= start_ramp:
            return 160
        if epoch >= end_ramp:
            return 192
        return int(np.round(np.interp([epoch], [start_ramp, end_ramp], [160, 192])[0] / 32)) * 32

    assert recipe.epochs == epochs
    assert [recipe.train_size(epoch) for epoch in range(epochs)] == [
        published(epoch) for epoch in range(epochs)
    ]
    assert recipe.peak_lr == pytest.approx(1.7)
    assert (recipe.global_batch, recipe.label_smoothing, recipe.optimizer.weight_decay) == (
        8 * 512,
        0.1,
        1e-4,
    )
    assert (recipe.preprocess.val_size, round(256 * 256 / 224)) == (256, recipe.preprocess.val_resize)


def test_crops_that_do_not_grow_keep_their_size() -> None:
    assert {load_recipe("rn50-baseline").train_size(epoch) for epoch in range(90)} == {224}


def test_crops_grow_in_small_steps_when_the_recipe_says_so() -> None:
    recipe = load_recipe(
        "digits", ["epochs=10", "preprocess.min_res=16", "preprocess.ramp=[0.2,0.6]", "preprocess.res_step=4"]
    )

    assert [recipe.train_size(epoch) for epoch in range(10)] == [16, 16, 16, 20, 24, 28, 32, 32, 32, 32]


def test_equal_settings_have_equal_digests_whatever_the_recipe_is_called(tmp_path: Path) -> None:
    path = tmp_path / "other-name.yaml"
    path.write_text("registered_model_name: resnet50-imagenet\nepochs: 90\nglobal_batch: 1024\n")

    assert load_recipe(str(path)).digest() == load_recipe("rn50-baseline").digest()
    assert load_recipe("rn50-baseline", ["seed=1"]).digest() != load_recipe("rn50-baseline").digest()


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("epochs: 3\nseed: 1\nepochs: 90\n", "epochs stands twice"),
        ("epochs: 1:30\n", "1:30 would be read as 90, a number to base 60"),
        ("optimizer: {base_lr: 0:01.5}\n", "0:01.5 would be read as 1.5, a number to base 60"),
        ("schedule: {gamma: 0.1, gamma: 0.2}\n", "gamma stands twice"),
        ("name: other\n", "called as its file"),
        ("epochs: &x [*x]\n", "must be a valid integer"),
        (
            "epochs: &a [lol, lol, lol, lol, lol, lol, lol, lol]\n".replace("epochs", "seed")
            + "".join(
                f"? {n}\n: &{n} [*{m}, *{m}, *{m}, *{m}, *{m}, *{m}, *{m}, *{m}]\n"
                for m, n in itertools.pairwise("abcdefghijklmn")
            )
            + "epochs: *n\n",
            " = ",
        ),
    ],
)
def test_a_recipe_that_says_things_twice_or_unfolds_without_end_is_refused(
    tmp_path: Path, text: str, says: str
) -> None:
    (tmp_path / "r.yaml").write_text(f"registered_model_name: m\n{text}")

    with pytest.raises(ConfigError, match=says) as refused:
        load_recipe(str(tmp_path / "r.yaml"))
    assert len(str(refused.value)) < 1000
