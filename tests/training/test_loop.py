"""The loop on real JPEGs through DALI, with a network small enough for a test."""

import os
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.conftest import ALONE
from tests.nets import Small
from trainer.checkpoint import list_checkpoints, load_state
from trainer.config import Optimizer
from trainer.errors import Stopped, TrainingDiverged
from trainer.training import train


@pytest.fixture(autouse=True)
def small(monkeypatch):
    monkeypatch.setattr("trainer.training._step.build", lambda name, classes, **_: Small(classes))


class Notes:
    """A run's log that remembers, and can ask for a stop as the operating system does."""

    def __init__(self, stop_at=None):
        self.points, self.notes, self.stop_at = [], [], stop_at

    def log(self, step, values):
        self.points += [(step, key, value) for key, value in values.items()]
        if step == self.stop_at and "train/loss" in values:
            os.kill(os.getpid(), signal.SIGTERM)

    def truncate_after(self, step):
        self.points = [point for point in self.points if point[0] <= step]

    def note(self, text):
        self.notes.append(text)

    def flush(self):
        pass

    def of(self, key):
        return [(step, value) for step, name, value in self.points if name == key]


def test_every_epoch_is_evaluated_once_and_every_step_logged_once(tiny, dataset, tmp_path):
    notes = Notes()
    model, accuracy = train(tiny, dataset, tmp_path, ALONE, notes)

    assert [step for step, _ in notes.of("val/top1")] == [2, 4, 6]
    assert [step for step, _ in notes.of("train/loss")] == [1, 2, 3, 4, 5, 6]
    assert {value for _, value in notes.of("val/images")} == {9}
    assert accuracy.images == 9
    assert not model.training


def test_every_evaluation_says_how_long_it_took(tiny, dataset, tmp_path):
    notes = Notes()
    train(tiny, dataset, tmp_path, ALONE, notes)

    assert [step for step, seconds in notes.of("speed/evaluation_seconds") if 0 < seconds < 60] == [2, 4, 6]


def test_a_run_that_diverges_names_its_last_good_checkpoint(tiny, dataset, tmp_path, monkeypatch):
    class Diverging(Small):
        def forward(self, images):
            Diverging.calls += self.training
            return super().forward(images) * (torch.nan if Diverging.calls == 5 else 1.0)

    Diverging.calls = 0
    monkeypatch.setattr("trainer.training._step.build", lambda name, classes, **_: Diverging(classes))
    with pytest.raises(
        TrainingDiverged, match=r"became nan by step 5 .* last good checkpoint is (\S+); train"
    ) as error:
        train(tiny, dataset, tmp_path, ALONE, Notes(), checkpoint_interval=0.0001)

    named = Path(str(error.value).partition("checkpoint is ")[2].partition(";")[0])
    assert named == list_checkpoints(tmp_path / "checkpoints")[0]
    assert named.name.startswith("step-00000004-"), "the end of an epoch is saved however busy the disk is"
    assert all(bool(tensor.isfinite().all()) for tensor in load_state(named, "model").values())


def test_a_run_that_diverges_at_once_says_that_nothing_was_saved(tiny, dataset, tmp_path, monkeypatch):
    class Nothing(Small):
        def forward(self, images):
            return super().forward(images) * torch.nan

    monkeypatch.setattr("trainer.training._step.build", lambda name, classes, **_: Nothing(classes))
    with pytest.raises(
        TrainingDiverged, match=r"by step 1 .*; there is no checkpoint from before; train again"
    ):
        train(tiny, dataset, tmp_path, ALONE, Notes())


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_a_stopped_run_ends_with_the_weights_of_an_unbroken_one(tiny, dataset, tmp_path, step):
    unbroken = Notes()
    expected, _ = train(tiny, dataset, tmp_path / "unbroken", ALONE, unbroken)

    notes = Notes(stop_at=step)
    with pytest.raises(Stopped, match="everything saved"):
        train(tiny, dataset, tmp_path / "stopped", ALONE, notes)
    notes.stop_at = None
    resumed, _ = train(tiny, dataset, tmp_path / "stopped", ALONE, notes)

    torch.testing.assert_close(resumed.state_dict(), expected.state_dict(), rtol=0, atol=0)
    for key in ("train/loss", "val/top1", "val/loss", "train/learning_rate"):
        assert notes.of(key) == unbroken.of(key)


def test_a_stopped_run_with_all_that_a_recipe_can_ask_for_ends_as_an_unbroken_one(tiny, dataset, tmp_path):
    recipe = replace(
        tiny,
        epochs=4,
        loss="binary_cross_entropy",
        label_smoothing=0.1,
        mixup=0.2,
        cutmix=1.0,
        ema_decay=0.9,
        ema_steps=2,
        optimizer=Optimizer(kind="adamw", base_lr=0.5, clip_norm=1.0),
        images=replace(
            tiny.preprocess, min_res=24, res_step=4, augment="trivialaugment", color_jitter=(0.4, 0.4, 0.4, 0.1),
            erasing=0.3,
        ),
    )  # fmt: skip
    expected, accuracy = train(recipe, dataset, tmp_path / "unbroken", ALONE, Notes())
    notes = Notes(stop_at=5)
    with pytest.raises(Stopped, match="everything saved"):
        train(recipe, dataset, tmp_path / "stopped", ALONE, notes)
    notes.stop_at = None
    resumed, again = train(recipe, dataset, tmp_path / "stopped", ALONE, notes)

    torch.testing.assert_close(resumed.state_dict(), expected.state_dict(), rtol=0, atol=0)
    assert again == accuracy
    (newest, *_) = list_checkpoints(tmp_path / "stopped" / "checkpoints")
    average, last = load_state(newest, "ema")["weights"], load_state(newest, "model")
    assert torch.equal(average["layers.8.weight"], expected.layers[8].weight), "what is kept is the average"
    assert not torch.equal(average["layers.8.weight"], last["layers.8.weight"])


def test_a_finished_run_is_not_trained_again(tiny, dataset, tmp_path):
    train(tiny, dataset, tmp_path, ALONE, Notes())
    again = Notes()
    train(tiny, dataset, tmp_path, ALONE, again)

    assert again.points == []


def test_other_seeds_make_other_weights(tiny, dataset, tmp_path):
    one, _ = train(tiny, dataset, tmp_path / "one", ALONE, Notes())
    other, _ = train(replace(tiny, seed=1), dataset, tmp_path / "other", ALONE, Notes())

    assert not torch.equal(one.layers[8].weight, other.layers[8].weight)
