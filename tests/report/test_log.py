from __future__ import annotations

import csv
import io
import math
from pathlib import Path

import pytest

from trainer import metrics
from trainer.errors import ConfigError
from trainer.report import log_of, read_log
from trainer.report._log import log_csv, log_md
from trainer.tracking import DatasetInfo, Journal, RunInfo, read_journal

PUBLISHED = """epoch,loss,top1,top5,learning_rate_at_epoch_end,seconds
1,6.400116777753497,1.5876138024053053,5.279791565196758,0.008761104022538851,1118.3396513462067
2,5.397930097246504,6.632463502054375,17.870724214154585,0.012773357114003348,1013.2810325622559
"""
VALIDATED = """row,loss,top1,top5
2,24.41343252999442,3.196,9.572
3,22.04726082938058,6.874,18.012
"""


def journal(folder: Path, *, epochs: int = 2) -> Path:
    """A run of 40 images, 10 a step, logged every second step; some seconds an epoch."""
    log = Journal(folder)
    dataset = DatasetInfo("photos", "0" * 64, "/photos", {"train": 40, "val": 8, "classes": 2})
    log.start(RunInfo("run", "runs", {"global_batch": 10, "epochs": epochs}, {}, dataset))
    for step in range(2, 4 * epochs + 1, 2):
        values = {metrics.TRAIN_LOSS: 10 - step, metrics.TRAIN_TOP1: step / 100, metrics.LR: step / 10}
        log.log(step, values | {metrics.THROUGHPUT: 5.0, metrics.DATA_WAIT: 0.25})
        if step % 4 == 0:
            accuracy = {metrics.VAL_TOP1: step / 10, metrics.VAL_TOP5: 0.9, metrics.VAL_LOSS: 1.5}
            log.log(step, accuracy | {metrics.EPOCH: step / 4, metrics.EVALUATION_SECONDS: 3.0})
    return folder


def test_each_epoch_is_a_row_with_means_of_training_and_what_was_validated(tmp_path: Path) -> None:
    first, second = log_of(read_journal(journal(tmp_path))).epochs

    assert (first.epoch, second.epoch) == (1, 2)
    assert (first.train_loss, second.train_loss) == (7, 3)
    assert (first.val_top1, second.val_top1) == (0.4, 0.8)
    assert (first.lr, second.lr) == (0.4, 0.8), "at the end of the epoch"
    assert second.images_per_second == pytest.approx(5)
    assert second.seconds == pytest.approx(40 / 5 + 3)
    assert second.data_wait_share == pytest.approx(0.25)


def test_the_epochs_of_the_run_that_is_extended_are_no_rows(tmp_path: Path) -> None:
    log = Journal(tmp_path)
    dataset = DatasetInfo("photos", "0" * 64, "/photos", {"train": 40})
    log.start(RunInfo("run", "runs", {"global_batch": 10, "epochs": 4}, {"parent_epochs": "2"}, dataset))
    log.log(8, {metrics.VAL_TOP1: 0.5, metrics.EPOCH: 2.0})  # evaluated again before the first step
    log.log(12, {metrics.TRAIN_LOSS: 1.0, metrics.THROUGHPUT: 5.0, metrics.VAL_TOP1: 0.6})

    (only,) = log_of(read_journal(tmp_path)).epochs
    assert (only.epoch, only.val_top1, only.seconds) == (3, 0.6, 40 / 5)


def test_a_run_in_the_middle_of_an_epoch_has_a_row_without_validation(tmp_path: Path) -> None:
    log = Journal(journal(tmp_path, epochs=1))
    log.log(6, {metrics.TRAIN_LOSS: 1.0, metrics.THROUGHPUT: 5.0, metrics.LR: 0.1})

    last = log_of(read_journal(tmp_path)).epochs[-1]
    assert (last.epoch, last.train_loss) == (2, 1.0)
    assert math.isnan(last.val_top1)


def test_a_run_that_has_not_measured_anything_has_no_rows(tmp_path: Path) -> None:
    assert log_of(read_journal(journal(tmp_path, epochs=0))).epochs == ()


def test_the_csv_is_read_back_as_the_same_log(tmp_path: Path) -> None:
    log = log_of(read_journal(journal(tmp_path)))
    (tmp_path / "log.csv").write_text(log_csv(log))

    assert list(csv.DictReader(io.StringIO(log_csv(log))))[1]["val_top1"] == "80", (
        "percent, as published tables"
    )
    again = read_log(tmp_path / "log.csv").epochs
    assert [(row.train_loss, row.val_top1, row.lr) for row in again] == [
        (row.train_loss, row.val_top1, row.lr) for row in log.epochs
    ]


def test_a_published_log_is_of_training_if_it_has_learning_rates_else_of_validation(tmp_path: Path) -> None:
    (tmp_path / "one.csv").write_text(PUBLISHED)
    (tmp_path / "two.csv").write_text(VALIDATED)
    training, validation = read_log(tmp_path / "one.csv").epochs, read_log(tmp_path / "two.csv").epochs

    assert training[1].train_top1 == pytest.approx(0.06632463502054375)
    assert training[1].lr == pytest.approx(0.012773357114003348)
    assert math.isnan(training[1].val_top1)
    assert validation[0].val_top1 == pytest.approx(0.03196)
    assert [row.epoch for row in validation] == [1, 2], "rows are counted"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no column of loss"),
        (b"a,b\n1,2\n", "no column of loss"),
        (b"\xff\xfe\x00", "cannot be read"),
        (b"epoch,top1\n" + b'"' + b"x" * 200_000, "cannot be read"),
    ],
)
def test_a_file_that_is_no_log_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "log.csv").write_bytes(content)

    with pytest.raises(ConfigError, match=said):
        read_log(tmp_path / "log.csv")


def test_a_log_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.csv cannot be read: No such file"):
        read_log(tmp_path / "nowhere.csv")


def test_odd_cells_of_a_published_log_are_gaps(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text("epoch,top1\n1,n/a\n1e99,50%\n3\n")

    rows = read_log(tmp_path / "log.csv").epochs
    assert [row.epoch for row in rows] == [1, 2, 3]
    assert [round(row.val_top1, 2) for row in rows[1:2]] == [0.5]
    assert math.isnan(rows[2].val_top1)


def test_the_markdown_has_a_row_an_epoch_and_no_markup_of_strangers(tmp_path: Path) -> None:
    text = log_md(log_of(read_journal(journal(tmp_path)), name="a|b<c>"), [("Recipe", "[x](y)\nz")])

    assert text.splitlines()[0] == "# Training log of a\\|b\\<c\\>"
    assert "- Recipe: \\[x\\](y) z" in text
    assert len([line for line in text.splitlines() if line.startswith("| ")]) == 1 + 2
