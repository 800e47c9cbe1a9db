"""A run that begins with another's weights: whose they are, that they are all there, and what is refused."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ALONE
from trainer import metrics
from trainer.checkpoint import list_checkpoints, load_checkpoint
from trainer.config import Recipe
from trainer.dataloader import ValLoader
from trainer.dataset import Dataset
from trainer.errors import ConfigError
from trainer.model import rebuild
from trainer.run import Plan, TrainOptions
from trainer.run._beginning import _require_fitting, begin, check_beginning
from trainer.run._parent import Parent, named, parent_of, parent_tags
from trainer.run._plan import plan_of
from trainer.run._resolve import load_weights
from trainer.tracking import NullLog, weights_sha256
from trainer.training import evaluate, train


class Notes(NullLog):
    """A log that remembers."""

    def __init__(self) -> None:
        self.points: dict[tuple[str, int], float] = {}

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.points |= {(key, step): value for key, value in values.items()}


@pytest.fixture(scope="module")
def small(tiny: Recipe) -> Recipe:
    return replace(tiny, model="tests.nets:Small", epochs=2)


@pytest.fixture(scope="module")
def averaged(small: Recipe, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with EMA, in a folder of runs of its own."""
    folder = tmp_path_factory.mktemp("parents") / "averaged"
    folder.mkdir()
    recipe = replace(small, ema_decay=0.7)
    Plan(recipe, dataset, folder).write()
    train(recipe, dataset, folder, ALONE, NullLog())
    return folder


def planned(recipe: Recipe, dataset: Dataset, runs: Path, model: Path | str, **options: Any) -> Plan:
    """The plan of a run that begins with `model`, its folder made."""
    given = TrainOptions(recipe="any", data=Path(), runs=runs, from_=str(model), **options)
    plan = plan_of(recipe, dataset, given, parent_of(given))
    plan.folder.mkdir(parents=True, exist_ok=True)
    plan.write()
    return plan


@pytest.mark.parametrize("weights", [None, "raw", "ema"])
@pytest.mark.parametrize("ema_decay", [0.0, 0.9])
def test_step_0_has_the_parents_accuracy_whichever_weights_are_taken(
    small: Recipe, dataset: Dataset, averaged: Path, tmp_path: Path, weights: Any, ema_decay: float
) -> None:
    """4 of 22 published runs evaluated at 0.10 %, because EMA had no BatchNorm statistics."""
    theirs = load_checkpoint(list_checkpoints(averaged / "checkpoints")[0])["states"]
    taken = theirs["model"] if weights == "raw" else theirs["ema"]["weights"]
    expected = evaluate(
        rebuild(small.model, 2, taken), ValLoader(dataset.val, small.preprocess, ALONE, batch=8), ALONE
    )
    schedule, notes = replace(small.schedule, warmup_epochs=0), Notes()
    recipe = replace(small, ema_decay=ema_decay, epochs=1, schedule=schedule)
    plan = planned(recipe, dataset, tmp_path, averaged, weights=weights)
    begin(plan, tmp_path)
    train(recipe, dataset, plan.folder, ALONE, notes)

    assert notes.points[metrics.VAL_LOSS, 0] == pytest.approx(expected.loss, rel=1e-6)
    assert (notes.points[metrics.VAL_TOP1, 0], notes.points[metrics.EPOCH, 0]) == (expected.top1, 0)
    assert notes.points[metrics.VAL_LOSS, 2] != notes.points[metrics.VAL_LOSS, 0], "then it is trained"
    assert parent_tags(plan.folder)["parent_digest"] == weights_sha256(taken)
    best = load_checkpoint(plan.folder / "checkpoints" / "best.pt")["states"]["progress"]
    assert best["step"] == 2, "the best is of this run's own training"


def test_the_weights_of_a_run_and_their_average_are_two_things(averaged: Path) -> None:
    raw, ema, registered = (
        load_weights(str(averaged), runs=averaged.parent, weights=w) for w in ("raw", "ema", None)
    )

    assert weights_sha256(raw.state_dict) != weights_sha256(ema.state_dict)
    assert weights_sha256(registered.state_dict) == weights_sha256(ema.state_dict)


def test_a_classifier_of_another_number_of_classes_is_initialised_anew(
    small: Recipe,
    dataset: Dataset,
    averaged: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    names = tuple(map(str, range(10)))
    plan = planned(small, replace(dataset, classes=names, class_names=names), tmp_path, averaged)
    check_beginning(plan, tmp_path)
    begin(plan, tmp_path)
    (file,) = list_checkpoints(plan.folder / "checkpoints")
    states = load_checkpoint(file)["states"]
    theirs = load_weights(str(averaged), runs=tmp_path).state_dict

    assert states["model"]["layers.8.weight"].shape == (10, 32)
    for name, tensor in theirs.items():
        assert name.startswith("layers.8") or torch.equal(states["model"][name], tensor), name
    assert states["progress"]["evaluated"] == 0, (
        "nothing is known of the new classes, and step 0 says nothing"
    )
    assert (
        "its classifier (layers.8.bias, layers.8.weight) is initialised anew: it knows 2 classes"
        in caplog.text
    )


def test_as_many_classes_that_are_others_are_no_classifier_to_keep(
    small: Recipe, dataset: Dataset, averaged: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    plan = planned(small, replace(dataset, classes=("bird", "dog")), tmp_path, averaged)
    check_beginning(plan, tmp_path)

    assert "it knows other classes or has them in another order (number 0 is cat, here bird)" in caplog.text


def test_another_network_is_refused_by_its_layers(
    small: Recipe, dataset: Dataset, averaged: Path, tmp_path: Path
) -> None:
    plan = planned(replace(small, model="tests.nets:Learner"), dataset, tmp_path, averaged)
    with pytest.raises(
        ConfigError,
        match=r"not those of tests.nets:Learner: 0\.bias is missing there, .*, and \d+ more; give",
    ):
        check_beginning(plan, tmp_path)

    with pytest.raises(ConfigError, match=r"fc\.weight is \(2, 3\) there instead of \(2, 4\); give"):
        _require_fitting(
            {"fc.weight": torch.zeros(2, 4)}, {"fc.weight": torch.zeros(2, 3)}, frozenset(), "x", "y"
        )


def test_a_run_that_has_begun_needs_its_parent_no_more(
    small: Recipe, dataset: Dataset, averaged: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor is it changed by what the parent's name leads to meanwhile."""
    caplog.set_level(logging.INFO)
    parent = shutil.copytree(averaged, tmp_path / "averaged", symlinks=True)
    plan = planned(small, dataset, tmp_path, parent)
    begin(plan, tmp_path)
    before = {path: path.read_bytes() for path in plan.folder.rglob("*.*") if path.is_file()}
    shutil.rmtree(parent)
    again = planned(small, dataset, tmp_path, parent)
    check_beginning(again, tmp_path)
    begin(again, tmp_path)

    assert again.folder == plan.folder
    assert {path: path.read_bytes() for path in plan.folder.rglob("*.*") if path.is_file()} == before
    assert "this run began with" in caplog.text
    assert "what averaged leads to by now does not change it" in caplog.text


def test_a_start_that_was_cut_off_before_its_first_checkpoint_begins_again(
    small: Recipe, dataset: Dataset, averaged: Path, tmp_path: Path
) -> None:
    plan = planned(small, dataset, tmp_path, averaged)
    begin(plan, tmp_path)
    for checkpoint in list_checkpoints(plan.folder / "checkpoints"):
        checkpoint.unlink()
    begin(planned(small, dataset, tmp_path, averaged), tmp_path)

    assert len(list_checkpoints(plan.folder / "checkpoints")) == 1


def test_another_parent_or_none_is_another_run(
    small: Recipe, dataset: Dataset, averaged: Path, tmp_path: Path
) -> None:
    none = plan_of(small, dataset, TrainOptions(recipe="any", data=Path(), runs=tmp_path), None)
    none.folder.mkdir()
    none.write()
    plans = [
        planned(small, dataset, tmp_path, averaged),
        planned(small, dataset, tmp_path, averaged, weights="raw"),
        planned(small, dataset, tmp_path, "models:/cats/3"),
        planned(small, dataset, tmp_path, "models:/cats@candidate"),
        none,
    ]

    assert len({plan.folder for plan in plans}) == 5
    assert planned(small, dataset, tmp_path, "models:/cats/3").folder == plans[2].folder
    assert (
        plan_of(small, dataset, TrainOptions(recipe="a", data=Path(), runs=tmp_path), None).folder
        == none.folder
    )
    assert json.loads((plans[1].folder / "parent.json").read_text())["weights"] == "raw"


def test_a_path_is_named_as_seen_from_the_runs(tmp_path: Path) -> None:
    """All runs may be moved together, as into a container."""
    assert named(str(tmp_path / "digits-1/"), tmp_path) == "digits-1"
    assert named("elsewhere/best.pt", tmp_path) == f"{Path.cwd()}/elsewhere/best.pt"
    assert (named("digits", tmp_path), named("models:/a/1", tmp_path)) == ("digits", "models:/a/1")


def test_what_has_no_such_weights_is_refused_in_words(run: Path, tmp_path: Path) -> None:
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "model.onnx").write_bytes(b"")
    for model, weights, says in (
        (
            str(tmp_path / "bundle"),
            None,
            "is a bundle, whose ONNX file holds a network to be run and no weights",
        ),
        (str(run), "ema", r"has no EMA weights, its recipe has ema_decay=0; leave out --weights ema"),
        (
            "models:/cats/1",
            "raw",
            "--weights raw is for a checkpoint, and models:/cats/1 has only what was registered",
        ),
        ("nothing", None, "there is no model nothing; give models:/"),
    ):
        with pytest.raises(ConfigError, match=says):
            load_weights(model, runs=run.parent, weights=weights)


def test_a_parent_has_a_name_for_messages() -> None:
    assert Parent(model="a/b", name="b", weights="raw").describe() == "b (raw)"
