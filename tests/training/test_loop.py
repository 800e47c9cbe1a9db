"""The loop on real JPEGs through DALI, with a network small enough for a test."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests import nets
from tests.conftest import ALONE
from trainer import metrics
from trainer.checkpoint import list_checkpoints, load_state
from trainer.config import Execution, Optimizer, Phase, PhasePreprocess, Recipe
from trainer.dataset import Dataset
from trainer.errors import Stopped, TrainingDiverged
from trainer.tracking import NullLog
from trainer.training import train
from trainer.training._first_step import FirstStep


@pytest.fixture(scope="session")
def small(tiny: Recipe) -> Recipe:
    """The small recipe with a network small enough for a test."""
    return replace(tiny, model="tests.nets:Small")


class Notes(NullLog):
    """A run's log that remembers, and can ask for a stop as the operating system does."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.points: list[tuple[int, str, float]] = []
        self.steps: list[int] = []
        self.stop_at = stop_at

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.points += [(step, key, value) for key, value in values.items()]
        if step == self.stop_at and metrics.TRAIN_LOSS in values:
            os.kill(os.getpid(), signal.SIGTERM)

    def step_done(self, step: int) -> None:
        self.steps.append(step)

    def truncate_after(self, step: int) -> None:
        self.points = [point for point in self.points if point[0] <= step]

    def of(self, key: str) -> list[tuple[int, float]]:
        return [(step, value) for step, name, value in self.points if name == key]


def test_each_step_is_announced_once_by_the_host(small: Recipe, dataset: Dataset, tmp_path: Path) -> None:
    notes = Notes()
    train(replace(small, log_every=5), dataset, tmp_path, ALONE, notes)

    assert notes.steps == [1, 2, 3, 4, 5, 6]


def test_every_epoch_is_evaluated_once_and_every_step_logged_once(
    small: Recipe, dataset: Dataset, tmp_path: Path
) -> None:
    notes = Notes()
    model, accuracy = train(small, dataset, tmp_path, ALONE, notes)

    assert [step for step, _ in notes.of(metrics.VAL_TOP1)] == [2, 4, 6]
    assert [step for step, _ in notes.of(metrics.TRAIN_LOSS)] == [1, 2, 3, 4, 5, 6]
    assert accuracy.num_images == 9
    assert not model.training


def test_until_an_ema_has_begun_the_network_itself_is_evaluated_kept_and_registered(
    small: Recipe, dataset: Dataset, tmp_path: Path
) -> None:
    """The weights of the start were measured, and would have been registered."""
    plain, averaged = Notes(), Notes()
    expected, accuracy = train(small, dataset, tmp_path / "plain", ALONE, plain)
    late = replace(small, ema_decay=0.9, ema_steps=1000)
    model, same = train(late, dataset, tmp_path / "late", ALONE, averaged)

    assert averaged.of(metrics.VAL_LOSS) == plain.of(metrics.VAL_LOSS)
    assert same == accuracy
    torch.testing.assert_close(dict(model.state_dict()), dict(expected.state_dict()), rtol=0, atol=0)
    kept = load_state(tmp_path / "late" / "checkpoints" / "best.pt", "ema")
    assert kept["updates"] == 0
    assert kept["weights"].keys() == expected.state_dict().keys()


def test_every_evaluation_says_how_long_it_took(small: Recipe, dataset: Dataset, tmp_path: Path) -> None:
    notes = Notes()
    train(small, dataset, tmp_path, ALONE, notes)

    assert [step for step, seconds in notes.of(metrics.EVALUATION_SECONDS) if 0 < seconds < 60] == [2, 4, 6]


def test_a_run_that_diverges_names_its_last_good_checkpoint(
    small: Recipe, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nets.Diverging, "calls", 0)
    recipe = replace(small, model="tests.nets:Diverging")
    with pytest.raises(
        TrainingDiverged, match=r"became nan by step 5 .* last good checkpoint is (\S+); train"
    ) as error:
        train(recipe, dataset, tmp_path, ALONE, Notes(), checkpoint_interval=0.0001)

    named = Path(str(error.value).partition("checkpoint is ")[2].partition(";")[0])
    assert named == list_checkpoints(tmp_path / "checkpoints")[0]
    assert named.name.startswith("step-00000004-"), "the end of an epoch is saved however busy the disk is"
    assert all(bool(tensor.isfinite().all()) for tensor in load_state(named, "model").values())


def test_a_run_that_diverges_at_once_says_that_nothing_was_saved(
    small: Recipe, dataset: Dataset, tmp_path: Path
) -> None:
    with pytest.raises(
        TrainingDiverged, match=r"by step 1 .*; there is no checkpoint from before; train again"
    ):
        train(replace(small, model="tests.nets:AllNaN"), dataset, tmp_path, ALONE, Notes())


@pytest.mark.parametrize("step", [1, 2, 3, 5])
def test_a_stopped_run_ends_with_the_weights_of_an_unbroken_one(
    small: Recipe, dataset: Dataset, tmp_path: Path, step: int
) -> None:
    unbroken = Notes()
    expected, _ = train(small, dataset, tmp_path / "unbroken", ALONE, unbroken)

    notes = Notes(stop_at=step)
    with pytest.raises(Stopped, match="everything saved"):
        train(small, dataset, tmp_path / "stopped", ALONE, notes)
    notes.stop_at = None
    resumed, _ = train(small, dataset, tmp_path / "stopped", ALONE, notes)

    torch.testing.assert_close(resumed.state_dict(), expected.state_dict(), rtol=0, atol=0)
    for key in (metrics.TRAIN_LOSS, metrics.VAL_TOP1, metrics.VAL_LOSS, metrics.LR):
        assert notes.of(key) == unbroken.of(key)


@pytest.mark.parametrize(
    "micro_batch", [1, 2, 7, 9]
)  # of the first step, of the second, and after an evaluation
def test_a_stop_in_the_middle_of_a_step_leaves_no_trace_of_it(
    small: Recipe, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, micro_batch: int
) -> None:
    """A step of 1,024 images takes minutes on a CPU, and Docker kills after two."""
    quarters = Execution(batch_per_gpu=2)
    recipe = replace(small, ema_decay=0.9, log_every=2)
    unbroken, stopped, done = Notes(), Notes(), 0
    expected, _ = train(recipe, dataset, tmp_path / "unbroken", ALONE, unbroken, execution=quarters)

    def stop_in_the_middle(_: FirstStep) -> None:
        nonlocal done
        done += 1
        if done == micro_batch:
            os.kill(os.getpid(), signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(FirstStep, "micro_batch_done", stop_in_the_middle)
        with pytest.raises(Stopped, match=f"at step {(micro_batch - 1) // 3} of 6, everything saved"):
            train(recipe, dataset, tmp_path / "stopped", ALONE, stopped, execution=quarters)
    assert done == micro_batch, "no further micro-batch was begun"
    resumed, _ = train(recipe, dataset, tmp_path / "stopped", ALONE, stopped, execution=quarters)

    torch.testing.assert_close(resumed.state_dict(), expected.state_dict(), rtol=0, atol=0)
    for key in (metrics.TRAIN_LOSS, metrics.TRAIN_TOP1, metrics.VAL_LOSS, metrics.LR):
        assert stopped.of(key) == unbroken.of(key)


def test_a_stop_during_the_start_up_begins_no_step(small: Recipe, dataset: Dataset, tmp_path: Path) -> None:
    class Impatient(Notes):
        def truncate_after(self, step: int) -> None:
            os.kill(os.getpid(), signal.SIGTERM)

    notes = Impatient()
    with pytest.raises(Stopped, match="at step 0 of 6"):
        train(small, dataset, tmp_path, ALONE, notes)

    assert (notes.steps, list_checkpoints(tmp_path / "checkpoints")) == ([], [])


def test_a_stopped_run_with_all_that_a_recipe_can_ask_for_ends_as_an_unbroken_one(
    small: Recipe, dataset: Dataset, tmp_path: Path
) -> None:
    """The stop is in the middle of the first of two phases."""
    recipe = replace(
        small,
        epochs=4,
        loss="binary_cross_entropy",
        label_smoothing=0.1,
        mixup=0.2,
        cutmix=1.0,
        ema_decay=0.9,
        ema_steps=2,
        optimizer=Optimizer(name="adamw", base_lr=0.5, clip_norm=1.0),
        preprocess=replace(
            small.preprocess,
            min_res=24,
            res_step=4,
            augment="trivialaugment",
            color_jitter=(0.4, 0.4, 0.4, 0.1),
            erasing=0.3,
        ),
        phases=(
            Phase(
                at=0.5,
                cutmix=0,
                label_smoothing=0.2,
                ema_decay=0.5,
                preprocess=PhasePreprocess(train_size=36, augment="randaugment", color_jitter=(0, 0, 0, 0)),
            ),
            Phase(at=0.75, mixup=0, label_smoothing=0, preprocess=PhasePreprocess(augment="none", erasing=0)),
        ),
    )
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
    assert torch.equal(average["layers.8.weight"], expected.layers[8].weight), "the EMA is kept"
    assert not torch.equal(average["layers.8.weight"], last["layers.8.weight"])


def test_a_phase_changes_nothing_before_it_begins_and_is_announced_once(
    small: Recipe, dataset: Dataset, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The third of three epochs, of two steps each, which goes on in another process."""
    plain, stopped = Notes(), Notes(stop_at=5)
    train(small, dataset, tmp_path / "plain", ALONE, plain)
    recipe = replace(small, phases=(Phase(at=0.5, label_smoothing=0.5),))
    caplog.set_level("INFO", "trainer.training._phases")
    with pytest.raises(Stopped):
        train(recipe, dataset, tmp_path / "phase", ALONE, stopped)

    assert caplog.messages == ["phase from epoch 3 on: label_smoothing 0.5"]
    before = [
        load_state(next((tmp_path / run / "checkpoints").glob("step-00000004-*")), "model")
        for run in ("plain", "phase")
    ]
    torch.testing.assert_close(before[1], before[0], rtol=0, atol=0)
    for ours, others in zip(stopped.of(metrics.TRAIN_LOSS), plain.of(metrics.TRAIN_LOSS), strict=False):
        assert (ours == others) == (ours[0] <= 4)


def test_a_stopped_run_whose_network_draws_for_itself_ends_as_an_unbroken_one(
    small: Recipe, dataset: Dataset, tmp_path: Path
) -> None:
    recipe = replace(
        small,
        model="tests.nets:Residual",
        stochastic_depth=0.5,
        repeated_augmentation=3,
        loss="binary_cross_entropy",
        bce_sum=False,
        bce_target_threshold=0.2,
        mixup=0.2,
        cutmix=1.0,
        ema_decay=0.9,
        optimizer=Optimizer(name="lamb", base_lr=0.5, weight_decay=0.02, clip_norm=1.0),
        phases=(Phase(at=0.6, mixup=0, cutmix=0),),
    )
    halves = Execution(batch_per_gpu=4)
    expected, _ = train(recipe, dataset, tmp_path / "unbroken", ALONE, Notes(), execution=halves)
    notes = Notes(stop_at=3)
    with pytest.raises(Stopped, match="everything saved"):
        train(recipe, dataset, tmp_path / "stopped", ALONE, notes, execution=halves)
    notes.stop_at = None
    resumed, _ = train(recipe, dataset, tmp_path / "stopped", ALONE, notes, execution=halves)

    torch.testing.assert_close(resumed.state_dict(), expected.state_dict(), rtol=0, atol=0)


def test_a_finished_run_is_not_trained_again(small: Recipe, dataset: Dataset, tmp_path: Path) -> None:
    train(small, dataset, tmp_path, ALONE, Notes())
    again = Notes()
    train(small, dataset, tmp_path, ALONE, again)

    assert again.points == []


def test_other_seeds_make_other_weights(small: Recipe, dataset: Dataset, tmp_path: Path) -> None:
    one, _ = train(small, dataset, tmp_path / "one", ALONE, Notes())
    other, _ = train(replace(small, seed=1), dataset, tmp_path / "other", ALONE, Notes())

    assert not torch.equal(one.layers[8].weight, other.layers[8].weight)
