"""Snapshots: complete or absent, and known when damaged."""

import pytest
import torch

from tests.conftest import ALONE
from trainer.checkpoint import KEEP, Checkpoints
from trainer.errors import CheckpointError


class Part:
    """A state of one tensor."""

    def __init__(self, value):
        self.value = torch.tensor(value)

    def state_dict(self):
        return {"value": self.value}

    def load_state_dict(self, state):
        self.value = state["value"]


@pytest.fixture
def saved(tmp_path):
    checkpoints = Checkpoints(tmp_path, ALONE, identity="mine")
    for step in (1, 2):
        checkpoints.save(step, {"part": Part(step)})
    return checkpoints


def restored(checkpoints):
    part = Part(0)
    assert checkpoints.restore_newest({"part": part})
    return int(part.value)


def test_the_newest_snapshot_is_restored(saved):
    assert restored(saved) == 2


def test_without_snapshots_there_is_nothing_to_restore(tmp_path):
    assert not Checkpoints(tmp_path / "new", ALONE, identity="mine").restore_newest({"part": Part(0)})


@pytest.mark.parametrize("damage", ["one flipped bit", "cut short", "emptied"])
def test_a_damaged_newest_snapshot_is_passed_over_loudly(saved, damage):
    newest = saved.found()[0]
    data = bytearray(newest.read_bytes())
    if damage == "one flipped bit":
        data[len(data) // 2] ^= 1
    newest.write_bytes(data[: {"cut short": 100, "emptied": 0}.get(damage)])

    with pytest.warns(UserWarning, match=f"damaged snapshot passed over: {newest.name}"):
        assert restored(saved) == 1


def test_a_run_whose_snapshots_are_all_damaged_is_not_silently_begun_anew(saved):
    for path in saved.found():
        path.write_bytes(b"")

    with pytest.raises(CheckpointError, match=r"all snapshots .* are damaged"):
        restored(saved)


def test_snapshots_of_another_recipe_or_data_set_are_refused(saved, tmp_path):
    with pytest.raises(CheckpointError, match="another recipe or data set"):
        restored(Checkpoints(tmp_path, ALONE, identity="other"))


def test_only_the_newest_snapshots_are_kept(saved):
    for step in range(3, 10):
        saved.save(step, {"part": Part(step)})

    assert len(saved.found()) == KEEP
    assert restored(saved) == 9


def test_a_write_that_fails_leaves_nothing_half_written(saved, monkeypatch):
    def disk_full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", disk_full)

    with pytest.raises(CheckpointError, match="No space left on device"):
        saved.save(3, {"part": Part(3)})
    assert restored(saved) == 2
    assert len(list(saved.found()[0].parent.iterdir())) == 2
