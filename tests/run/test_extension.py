"""A run that goes on from another's end: to the same weights where it may, and refused where its rate would jump."""

from __future__ import annotations

import re
import shlex
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ALONE
from trainer.checkpoint import list_checkpoints, load_state
from trainer.cli import main, make_parser
from trainer.config import Optimizer, Phase, Recipe, Schedule
from trainer.dataset import Dataset
from trainer.errors import ConfigError
from trainer.run import ExtendOptions, Extension, Plan, extend_run, make_extension
from trainer.run._beginning import begin
from trainer.run._parent import parent_tags
from trainer.run._session import exclusive_run_dir
from trainer.tracking import NullLog
from trainer.training import learning_rate, train

EPOCH = 2  # steps


@pytest.fixture
def ended(tiny: Recipe, dataset: Dataset, tmp_path: Path) -> Any:
    """Makes the folder of a run that has come so far, without training it."""

    def make(schedule: Schedule, *, epochs: int, step: int) -> Path:
        folder = tmp_path / "digits-0123456789"
        recipe = replace(tiny, model="tests.nets:Small", epochs=epochs, schedule=schedule)
        (folder / "checkpoints").mkdir(parents=True)
        Plan(recipe, dataset, folder).write()
        (folder / "checkpoints" / f"step-{step:08d}-0123456789abcdef.pt").write_bytes(b"")
        return folder

    return make


def extension(folder: Path, epochs: int, **options: Any) -> Extension:
    return make_extension(ExtendOptions(folder=folder, epochs=epochs, runs=folder.parent, **options))


def test_an_extended_run_ends_with_the_weights_of_one_that_was_to_be_so_long(
    tiny: Recipe, dataset: Dataset, tmp_path: Path
) -> None:
    """Momentum, EMA, order of images, crops and rate: all go on as if nothing had been between."""
    recipe = replace(
        tiny,
        model="tests.nets:Small",
        epochs=2,
        ema_decay=0.7,
        optimizer=Optimizer(base_lr=0.5, nesterov=True),
        schedule=Schedule(name="step", milestones=(0.9,), warmup_epochs=1),
    )
    long = replace(recipe, epochs=4)
    for name, one in (("short", recipe), ("long", long)):
        (tmp_path / name).mkdir()
        Plan(one, dataset, tmp_path / name).write()
        train(one, dataset, tmp_path / name, ALONE, NullLog())

    made = extension(tmp_path / "short", 4)
    made.require_smooth()
    assert made.plan.recipe == replace(long, name=made.plan.recipe.name)
    made.plan.folder.mkdir()
    made.plan.write()
    begin(made.plan, tmp_path)
    train(made.plan.recipe, dataset, made.plan.folder, ALONE, NullLog())

    ours, theirs = (
        list_checkpoints(folder / "checkpoints")[0] for folder in (made.plan.folder, tmp_path / "long")
    )
    for state in ("model", "ema"):
        both = load_state(ours, state), load_state(theirs, state)
        torch.testing.assert_close(*both, rtol=0, atol=0)
    buffers = (load_state(one, "optimizer")["state"][0]["momentum_buffer"] for one in (ours, theirs))
    assert torch.equal(*buffers)
    tags = parent_tags(made.plan.folder)
    assert (tags["parent_epochs"], tags["parent_weights"]) == ("2", "all")
    assert Path(tags["parent_model"]) == list_checkpoints(tmp_path / "short" / "checkpoints")[0].resolve()

    shutil.rmtree(tmp_path / "short")
    again = extension(tmp_path / "short", 4).plan
    assert (again.folder, again.recipe) == (made.plan.folder, made.plan.recipe), (
        "begun, it needs the other run no more"
    )


@pytest.mark.parametrize(
    ("schedule", "epochs", "step", "longer"),
    [
        (Schedule(name="cosine", warmup_epochs=1), 3, 6, 5),
        (Schedule(name="linear", warmup_epochs=1), 3, 6, 5),
        (Schedule(name="onecycle"), 5, 10, 8),
        (Schedule(name="step", warmup_epochs=0, milestones=(0.5,)), 4, 8, 16),  # the milestone is ahead again
        (Schedule(name="cosine", warmup_epochs=0), 4, 4, 20),  # stopped half-way
        (Schedule(name="cosine", warmup_epochs=0), 20, 4, 3),  # to fewer
    ],
)
def test_a_jump_of_the_rate_is_refused_with_commands_that_do_instead(
    ended: Any, schedule: Schedule, epochs: int, step: int, longer: int
) -> None:
    folder = ended(schedule, epochs=epochs, step=step)
    made = extension(folder, longer)

    assert abs(made.goes_on_at / made.ended_at - 1) > 0.1
    with pytest.raises(
        ConfigError, match=r"it would jump to .* for a new cycle begin a run with its weights"
    ) as error:
        made.require_smooth()
    with pytest.raises(ConfigError, match="it would jump to"):
        extend_run(ExtendOptions(folder=folder, epochs=longer, runs=folder.parent))
    for command in re.findall(r"`trainer ([^`]+)`", str(error.value)):
        arguments = shlex.split(command)
        make_parser(arguments).parse_args([*arguments, "--data", "d"])
        if "--cooldown" in arguments:
            extension(folder, longer, cooldown=True).require_smooth()


def test_a_run_that_has_cooled_down_is_offered_no_cool_down(ended: Any) -> None:
    folder = ended(Schedule(name="onecycle"), epochs=30, step=60)

    assert "--cooldown" not in extension(folder, 40).refusal
    assert "nothing is left to be cooled down" in extension(folder, 40, cooldown=True).refusal


@pytest.mark.parametrize(
    ("schedule", "epochs", "step", "longer"),
    [
        (Schedule(name="step", warmup_epochs=1), 3, 6, 4),  # all its drops are behind it
        (Schedule(name="step", warmup_epochs=0, milestones=(0.5,)), 4, 4, 5),  # in front of its own drop
        (Schedule(name="cosine", warmup_epochs=0), 90, 60, 91),
    ],
)
def test_a_rate_that_goes_on_is_no_jump(
    ended: Any, schedule: Schedule, epochs: int, step: int, longer: int
) -> None:
    extension(ended(schedule, epochs=epochs, step=step), longer).require_smooth()


def test_a_cool_down_falls_from_where_the_rate_was_to_zero(ended: Any) -> None:
    folder = ended(Schedule(name="step", warmup_epochs=0, milestones=(0.5,)), epochs=4, step=8)
    made = extension(folder, 8, cooldown=True)
    lr_at = learning_rate(made.plan.recipe, steps_per_epoch=EPOCH)

    assert made.goes_on_at == pytest.approx(made.ended_at, rel=1e-9)
    assert [lr_at(step) / made.ended_at for step in range(8, 17)] == pytest.approx(
        [1 - at / 8 for at in range(9)]
    )
    assert made.plan.folder != extension(folder, 8).plan.folder


def test_a_cool_down_of_moving_momentum_has_the_optimizers_own(ended: Any) -> None:
    schedule = Schedule(name="onecycle", momentum_range=(0.85, 0.95))
    made = extension(ended(schedule, epochs=4, step=4), 8, cooldown=True)

    assert made.goes_on_at == pytest.approx(made.ended_at, rel=1e-9)
    assert made.plan.recipe.schedule.momentum_range is None


def test_phases_that_would_not_fit_are_said_in_a_sentence(ended: Any, dataset: Dataset) -> None:
    folder = ended(Schedule(name="step", warmup_epochs=0), epochs=9, step=2)
    recipe = replace(extension(folder, 9).plan.recipe, mixup=0.2, phases=(Phase(at=0.8, mixup=0.0),))
    for name in ("recipe.json", "dataset.json"):
        (folder / name).unlink()
    Plan(recipe, dataset, folder).write()

    with pytest.raises(ConfigError) as refused:
        extension(folder, 3)
    assert str(refused.value) == (
        f"{folder} cannot be extended to 3 epochs: the phase at=0.8 would begin after the last of 3 epochs, for a "
        "phase begins with an epoch; use epochs=5 or more, an earlier at, or phases=[]"
    )


def test_what_cannot_be_extended_is_refused(ended: Any, tmp_path: Path) -> None:
    folder = ended(Schedule(name="cosine", warmup_epochs=1), epochs=3, step=6)
    for where, options, says in (
        (folder, {"epochs": 3}, "has done 3 epochs already; give more with --epochs"),
        (tmp_path / "none", {"epochs": 9}, "is no run that has begun"),
    ):
        with pytest.raises(ConfigError, match=says):
            extension(where, **options)

    with (
        exclusive_run_dir(folder),
        pytest.raises(ConfigError, match="is being trained; wait for its end, or stop it"),
    ):
        extension(folder, 9)

    stored = (folder / "dataset.json").read_text()
    (folder / "dataset.json").write_text(re.sub('"digest": "....', '"digest": "0000', stored))
    with pytest.raises(
        ConfigError, match=r"was trained on another data set than .* \(photos0 0000.*give that with"
    ):
        extension(folder, 9)


@pytest.mark.parametrize("place", [{"RANK": "1"}, {"TRAINER_LAUNCHED": "1"}])
def test_only_one_of_several_processes_looks_whether_the_run_is_being_trained(
    ended: Any, monkeypatch: pytest.MonkeyPatch, place: dict[str, str]
) -> None:
    """They hold its lock for a moment, all at the same time."""
    folder = ended(Schedule(name="step", warmup_epochs=1), epochs=3, step=6)
    torchrun = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    for name, value in {**torchrun, "MASTER_ADDR": "localhost", "MASTER_PORT": "1", **place}.items():
        monkeypatch.setenv(name, value)

    with exclusive_run_dir(folder):
        assert extension(folder, 4).step == 6


def test_crops_that_would_be_smaller_again_are_said(ended: Any, dataset: Dataset) -> None:
    folder = ended(Schedule(name="step", warmup_epochs=0), epochs=3, step=6)
    made = extension(folder, 4)
    assert made.also == ""

    grown = replace(
        made.plan.recipe, epochs=3, preprocess=replace(made.plan.recipe.preprocess, min_res=16, res_step=4)
    )
    for name in ("recipe.json", "dataset.json"):
        (folder / name).unlink()
    Plan(grown, dataset, folder).write()

    assert extension(folder, 6).also == "crops go from 28 px to 20 px"


def test_a_phase_that_is_not_in_force_any_more_is_said(ended: Any, dataset: Dataset) -> None:
    folder = ended(Schedule(name="step", warmup_epochs=0), epochs=3, step=6)
    made = extension(folder, 9)
    phased = replace(made.plan.recipe, epochs=3, mixup=0.2, phases=(Phase(at=0.6, mixup=0.0),))
    for name in ("recipe.json", "dataset.json"):
        (folder / name).unlink()
    Plan(phased, dataset, folder).write()

    assert extension(folder, 4).also == "", "still in force"
    assert extension(folder, 9).also == "mixup goes from 0.0 to 0.2"


def test_the_command_draws_the_rate_before_it_refuses(ended: Any, capsys: pytest.CaptureFixture[str]) -> None:
    folder = ended(Schedule(name="cosine", warmup_epochs=0), epochs=3, step=6)
    before = sorted(folder.parent.rglob("*"))
    code = main(["extend", str(folder), "--epochs", "6", "--runs", str(folder.parent)])
    said = capsys.readouterr()

    assert code == 2
    assert re.search(r"lr +█[▁▂▃▄▅▆▇█]+▁\|▄[▁▂▃▄▅▆▇█]+▁\n", said.out), said.out
    assert "ended at    0.00" in said.out
    assert "it would jump to 0.00" in said.err
    assert sorted(folder.parent.rglob("*")) == before, "nothing was begun"
