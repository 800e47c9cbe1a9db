"""What is kept of an evaluation is read back as it was, or it is said that it cannot be."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from tests.report.synthetic import answers
from trainer.errors import DataError
from trainer.predictions import PREDICTIONS, read_predictions, write_predictions


def test_predictions_are_read_back_as_they_were(tmp_path: Path) -> None:
    written = answers(200, 30)
    write_predictions(tmp_path, written)
    read = read_predictions(tmp_path)

    for field in fields(written):
        np.testing.assert_allclose(getattr(read, field.name), getattr(written, field.name), rtol=1e-6)
    assert [path.name for path in tmp_path.iterdir()] == [PREDICTIONS], "no half of a file beside it"


def test_a_run_that_has_none_has_none(tmp_path: Path) -> None:
    assert read_predictions(tmp_path) is None


def test_those_of_imagenet_are_small(tmp_path: Path) -> None:
    some = answers(5_000, 100)
    write_predictions(tmp_path, some)

    assert (tmp_path / PREDICTIONS).stat().st_size < 5_000 * 60, "3 MB for 50,000 images"


def test_arrays_that_do_not_fit_together_are_refused(tmp_path: Path) -> None:
    some = answers(20, 10)
    write_predictions(tmp_path, replace(some, loss=some.loss[:7]))

    with pytest.raises(DataError, match="does not fit together; remove it"):
        read_predictions(tmp_path)
