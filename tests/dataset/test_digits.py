"""The digits data set."""

import pytest

from trainer.dataset import digits, open_dataset, prepare
from trainer.errors import DataError


def test_digits_are_written_once_stratified_and_complete(tmp_path):
    assert prepare(digits(), tmp_path / "digits").made
    assert not prepare(digits(), tmp_path / "digits").made
    made = open_dataset(tmp_path / "digits")

    assert made.name == "digits"
    assert made.classes == tuple("0123456789")
    assert (len(made.train), len(made.val)) == (1437, 360)
    per_class = [(made.val.labels == label).sum() for label in range(10)]
    assert min(per_class) >= 35
    assert max(per_class) <= 37


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")

    with pytest.raises(DataError, match="is not empty"):
        prepare(digits(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
