"""Checkpoints: complete or absent, written while training goes on, and known when damaged."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import io
import math
import os
import pickle
import random
import re
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.conftest import ALONE
from tests.hostile import hostile_files
from trainer.checkpoint import KEEP, Checkpoints, list_checkpoints, load_checkpoint, load_state
from trainer.config import Recipe
from trainer.errors import CheckpointError

RECIPE = Recipe(registered_model_name="x")


class State:
    """A state of one tensor."""

    def __init__(self, value: float, size: int = 1000) -> None:
        self.value = torch.full((size,), float(value))

    def state_dict(self) -> dict[str, Any]:
        return {"value": self.value}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.value = state["value"]


@pytest.fixture
def checkpoints(tmp_path: Path) -> Iterator[Checkpoints]:
    with Checkpoints(tmp_path, ALONE, recipe=RECIPE, dataset_digest="mine") as checkpoints:
        yield checkpoints


def save(checkpoints: Checkpoints, *steps: int, **options: Any) -> None:
    for step in steps:
        checkpoints.save(step, {"state": State(step)}, **options)
        checkpoints.wait()


def restored(checkpoints: Checkpoints) -> int:
    state = State(-1)
    assert checkpoints.restore_newest({"state": state})
    return int(state.value[0])


def steps(folder: Path) -> list[int]:
    return [int(path.name[5:13]) for path in list_checkpoints(folder)]


def test_the_newest_checkpoint_is_restored(checkpoints: Checkpoints) -> None:
    save(checkpoints, 1, 2)

    assert restored(checkpoints) == 2


def test_without_checkpoints_there_is_nothing_to_restore(checkpoints: Checkpoints) -> None:
    assert not checkpoints.restore_newest({"state": State(0)})


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty_a_page(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[2048:4096] = bytes(2048)
    path.write_bytes(data)


def swap_for_another(path: Path) -> None:
    path.write_bytes(list_checkpoints(path.parent)[1].read_bytes())


def make_unreadable(path: Path) -> None:
    path.unlink()
    path.mkdir()


DAMAGES: dict[str, Callable[[Path], Any]] = {
    "a flipped bit": flip_a_bit,
    "a page of zeros": empty_a_page,
    "cut short": lambda path: os.truncate(path, path.stat().st_size - 1),
    "emptied": lambda path: os.truncate(path, 0),
    "the bytes of another": swap_for_another,
    "unreadable": make_unreadable,
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_newest_checkpoint_is_passed_over_loudly(
    checkpoints: Checkpoints, tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    save(checkpoints, 1, 2)
    newest = list_checkpoints(tmp_path)[0]
    DAMAGES[damage](newest)

    assert restored(checkpoints) == 1
    assert caplog.messages == [
        f"damaged checkpoint passed over: {newest.name}; using {list_checkpoints(tmp_path)[1].name}",
    ]


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_damage_with_a_name_that_fits_again_runs_no_code(checkpoints: Checkpoints, tmp_path: Path) -> None:
    """A name with the right digest makes a file sound, not harmless: weights_only holds all the same."""

    class Hostile:
        def __reduce__(self) -> Any:
            return os.mkdir, (str(tmp_path / "ran"),)

    torch.save(
        {"recipe": RECIPE.as_dict(), "dataset_digest": "mine", "classes": {}, "states": {"state": Hostile()}},
        tmp_path / "draft",
    )
    digest = hashlib.sha256((tmp_path / "draft").read_bytes()).hexdigest()[:16]
    (tmp_path / "draft").rename(tmp_path / f"step-00000009-{digest}.pt")

    with pytest.raises(CheckpointError, match="more than numbers and text"):
        restored(checkpoints)
    assert not (tmp_path / "ran").exists()


def test_a_run_whose_checkpoints_are_all_damaged_is_not_silently_begun_anew(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    save(checkpoints, 1, 2)
    for path in list_checkpoints(tmp_path):
        path.write_bytes(b"")

    with pytest.raises(CheckpointError, match=r"all checkpoints .* are damaged"):
        restored(checkpoints)


@pytest.mark.parametrize(
    ("recipe", "digest", "says"),
    [
        (Recipe(registered_model_name="x", seed=1), "mine", "another run, of seed=0 instead of 1"),
        (RECIPE, "other", "another run, of another data set"),
    ],
)
def test_checkpoints_of_another_recipe_or_data_set_are_refused(
    checkpoints: Checkpoints, tmp_path: Path, recipe: Recipe, digest: str, says: str
) -> None:
    save(checkpoints, 1)
    with (
        Checkpoints(tmp_path, ALONE, recipe=recipe, dataset_digest=digest) as others,
        pytest.raises(CheckpointError, match=says),
    ):
        restored(others)


def test_the_newest_checkpoints_and_the_best_are_kept(checkpoints: Checkpoints, tmp_path: Path) -> None:
    save(checkpoints, 1)
    save(checkpoints, 2, best=2)
    save(checkpoints, *range(3, 10), best=2)

    assert steps(tmp_path) == [9, 8, 7, 2]
    assert len(steps(tmp_path)) == KEEP + 1
    assert float(load_state(tmp_path / "best.pt", "state")["value"][0]) == 2


def test_of_two_checkpoints_of_a_step_the_newer_is_kept(checkpoints: Checkpoints, tmp_path: Path) -> None:
    save(checkpoints, 1)
    checkpoints.save(1, {"state": State(5)})
    checkpoints.wait()

    assert restored(checkpoints) == 5
    assert steps(tmp_path) == [1]


def test_damaged_checkpoints_do_not_outlive_the_ones_made_after_going_back(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    save(checkpoints, 1, 2, 3)
    flip_a_bit(list_checkpoints(tmp_path)[0])
    assert restored(checkpoints) == 2
    save(checkpoints, 3)

    assert steps(tmp_path) == [3, 2, 1]
    assert restored(checkpoints) == 3


def test_training_goes_on_while_a_checkpoint_is_written_and_does_not_change_it(
    checkpoints: Checkpoints,
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    state = State(1)

    def wait() -> None:
        begun.set()
        go_on.wait()

    checkpoints.save(1, {"state": state}, flush_first=wait)
    assert begun.wait(10)
    state.value += 100
    assert not checkpoints.due()  # it waits for the disk
    go_on.set()
    checkpoints.wait()

    assert restored(checkpoints) == 1


def test_a_checkpoint_is_due_at_once_and_then_by_the_clock(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    assert checkpoints.due()
    save(checkpoints, 1)
    assert not checkpoints.due()
    now += 59
    assert not checkpoints.due()
    now += 1

    assert checkpoints.due()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
def test_a_write_that_fails_is_told_leaves_nothing_half_written_and_is_tried_again(
    checkpoints: Checkpoints,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    number: int,
) -> None:
    save(checkpoints, 2)

    def fails(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as broken:
        broken.setattr("os.fsync", fails)
        checkpoints.save(3, {"state": State(3)})
        with pytest.raises(CheckpointError, match=os.strerror(number)):
            checkpoints.wait()
    assert restored(checkpoints) == 2
    assert [path.name for path in tmp_path.iterdir()] == [list_checkpoints(tmp_path)[0].name]
    assert "step 3 cannot be written" in caplog.messages[0]
    assert "training goes on" in caplog.messages[0]

    save(checkpoints, 4)
    assert restored(checkpoints) == 4


def test_a_volume_that_vanishes_is_told_and_nothing_is_written_where_it_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    volume = tmp_path / "volume"
    with Checkpoints(
        volume / "run" / "checkpoints", ALONE, recipe=RECIPE, dataset_digest="mine"
    ) as checkpoints:
        save(checkpoints, 1)
        volume.rename(tmp_path / "elsewhere")
        volume.mkdir()  # as the mount point that is left
        checkpoints.save(2, {"state": State(2)})
        with pytest.raises(CheckpointError, match=r"step 2 cannot be written.*No such file"):
            checkpoints.wait()
        assert not list(volume.iterdir())

        volume.rmdir()
        (tmp_path / "elsewhere").rename(volume)
        assert restored(checkpoints) == 1
        save(checkpoints, 3)
        assert restored(checkpoints) == 3


def test_a_checkpoint_does_not_count_before_the_journal_is_safe(
    checkpoints: Checkpoints, tmp_path: Path
) -> None:
    def journal_fails() -> None:
        raise OSError(5, "Input/output error")

    checkpoints.save(1, {"state": State(1)}, flush_first=journal_fails)
    with pytest.raises(CheckpointError, match="Input/output error"):
        checkpoints.wait()

    assert not list_checkpoints(tmp_path)


def test_a_state_that_is_no_longer_finite_never_takes_the_place_of_a_good_one(
    checkpoints: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    save(checkpoints, 1)
    checkpoints.save(2, {"state": State(math.nan)})
    with pytest.raises(CheckpointError, match="infinite or none"):
        checkpoints.wait()

    assert restored(checkpoints) == 1


def save_again_and_again(folder: Path) -> None:
    with Checkpoints(folder, ALONE, recipe=RECIPE, dataset_digest="mine") as checkpoints:
        newest = list_checkpoints(folder)
        for step in range(int(newest[0].name[5:13]) + 1 if newest else 1, 10**8):
            checkpoints.save(step, {"state": State(step), "bulk": State(step, size=1_000_000)})


@pytest.mark.slow
def test_whenever_saving_is_killed_the_newest_checkpoint_is_sound(
    processes: Any, checkpoints: Checkpoints, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    seed = time.time_ns()
    print(f"seed {seed}")
    which, last = random.Random(seed), 0
    for _ in range(30):
        process = processes.Process(target=save_again_and_again, args=(tmp_path,))
        process.start()
        while not (now := list_checkpoints(tmp_path)) or int(now[0].name[5:13]) <= last:
            time.sleep(0.001)
        time.sleep(which.uniform(0, 0.05))
        process.kill()
        process.join()

        last = int(list_checkpoints(tmp_path)[0].name[5:13])
        state = State(0)
        assert checkpoints.restore_newest({"state": state})
        assert int(state.value[0]) == last
    assert caplog.messages == []


@pytest.mark.filterwarnings("error")  # torch's words about a file are not for the user
def test_none_of_a_hundred_hostile_files_runs_or_ends_in_a_traceback(tmp_path: Path) -> None:
    """On both ways in: as what a run goes on from, and as a model to be loaded."""
    canary, folder = tmp_path / "ran", tmp_path / "checkpoints"
    files = hostile_files(canary)
    assert len(files) >= 109
    live = [name for name, data in files if fires(data, canary)]
    assert len(live) >= 60, "canaries that would not sing prove nothing"

    for name, data in files:
        path = folder / f"step-00000009-{hashlib.sha256(data).hexdigest()[:16]}.pt"
        with Checkpoints(folder, ALONE, recipe=RECIPE, dataset_digest="mine") as checkpoints:
            path.write_bytes(data)
            for load in (lambda path=path: load_checkpoint(path), lambda cp=checkpoints: restored(cp)):
                # Where there was a zero already, the file is sound, of another run.
                sound = name.startswith("a byte of zero")
                refused = pytest.raises(CheckpointError, match=re.escape(path.name))
                with contextlib.suppress(CheckpointError) if sound else refused:
                    load()
        path.unlink()
        assert not canary.exists(), name


def fires(data: bytes, canary: Path) -> bool:
    """Whether a reader that trusts it would make the canary."""
    with warnings.catch_warnings(), contextlib.suppress(Exception):
        warnings.simplefilter("ignore")
        if data.startswith((b"PK", b"\x93")) or len(data) > 5000:
            torch.load(io.BytesIO(data), weights_only=False)
        else:
            pickle.loads(data)
    sang = canary.exists()
    if sang:
        canary.rmdir()
    return sang


def test_an_older_sound_checkpoint_is_used_where_the_newest_is_foreign(
    checkpoints: Checkpoints, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    save(checkpoints, 1)
    data = b"PK something else"
    foreign = f"step-00000002-{hashlib.sha256(data).hexdigest()[:16]}.pt"
    (tmp_path / foreign).write_bytes(data)

    assert restored(checkpoints) == 1
    assert caplog.messages[0].startswith(f"damaged checkpoint passed over: {foreign}; using step-00000001-")


def test_a_checkpoint_of_other_states_is_refused_by_name(checkpoints: Checkpoints, tmp_path: Path) -> None:
    save(checkpoints, 1)

    class Other(State):
        def load_state_dict(self, state: dict[str, Any]) -> None:
            raise RuntimeError("size mismatch\nand more")

    with pytest.raises(
        CheckpointError, match=r"step-0.*its state state cannot be taken up \(RuntimeError: size"
    ):
        checkpoints.restore_newest({"state": Other(0)})
    with pytest.raises(CheckpointError, match=r"its state optimizer cannot be taken up \(KeyError"):
        checkpoints.restore_newest({"optimizer": State(0)})
