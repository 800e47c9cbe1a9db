"""The digits data set."""

from __future__ import annotations

from pathlib import Path

from trainer.dataset import digits, open_dataset, prepare


def test_digits_are_written_once_stratified_and_complete(tmp_path: Path) -> None:
    assert prepare(digits(), tmp_path / "digits").made
    assert not prepare(digits(), tmp_path / "digits").made
    made = open_dataset(tmp_path / "digits")

    assert made.name == "digits"
    assert made.classes == tuple("0123456789")
    assert (len(made.train), len(made.val)) == (1437, 360)
    per_class = [(made.val.labels == label).sum() for label in range(10)]
    assert min(per_class) >= 35
    assert max(per_class) <= 37
