"""The digits data set."""

import pytest

from trainer.data import open_dataset, prepare_digits
from trainer.errors import DataError


def test_digits_are_written_once_stratified_and_complete(tmp_path):
    assert prepare_digits(tmp_path / "digits")
    assert not prepare_digits(tmp_path / "digits")
    digits = open_dataset(tmp_path / "digits")

    assert digits.name == "digits"
    assert digits.classes == tuple("0123456789")
    assert (len(digits.train), len(digits.val)) == (1437, 360)
    per_class = [(digits.val.labels == label).sum() for label in range(10)]
    assert min(per_class) >= 35
    assert max(per_class) <= 37


def test_an_interrupted_preparation_is_made_anew(tmp_path):
    prepare_digits(tmp_path)
    complete = open_dataset(tmp_path).digest
    (tmp_path / "dataset.json").unlink()
    (tmp_path / ".preparing-digits").touch()
    (tmp_path / "train" / "0" / "stray.jpeg").write_bytes(b"cut off")

    assert prepare_digits(tmp_path)
    assert open_dataset(tmp_path).digest == complete


def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")

    with pytest.raises(DataError, match="is not empty"):
        prepare_digits(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
