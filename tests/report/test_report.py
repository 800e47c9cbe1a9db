from __future__ import annotations

import csv
import html.parser
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.report.conftest import HOSTILE
from trainer.dataset import Dataset
from trainer.errors import ConfigError, DataError, TrackingError
from trainer.predictions import PREDICTIONS, read_predictions
from trainer.run import ReportOptions, report_run
from trainer.tracking import JOURNAL


@pytest.fixture(scope="module")
def page(finished: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a whole report."""
    out = tmp_path_factory.mktemp("out") / "report"
    return report_run(ReportOptions(folder=finished, out=out, per_class=2)).page


class Page(html.parser.HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(path.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_report_is_one_folder_with_pages_tables_and_pictures(page: Path) -> None:
    there = {str(path.relative_to(page.parent)) for path in page.parent.rglob("*") if path.is_file()}

    assert {
        "report.html",
        "mistakes_by_class.html",
        "log.csv",
        "log.md",
        "curves.png",
        "confusion.csv",
        "confused_pairs.csv",
        "per_class.csv",
        "mistakes.csv",
        "label_errors.csv",
        "slices.csv",
        "charts/top1.svg",
        "charts/loss.svg",
        "charts/learning-rate.svg",
        "charts/throughput.svg",
        "charts/data-wait.svg",
        "charts/calibration.svg",
    } <= there
    assert (page.parent / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_the_page_asks_nothing_of_anybody(page: Path) -> None:
    """Addresses are those of pictures that stand in the page, of its own parts and of the pages beside it."""
    for path in page.parent.glob("*.html"):
        for tag, attributes in Page(path).tags:
            address = attributes.get("src") or attributes.get("href") or "#"
            local = address.startswith(("data:", "#")) or (page.parent / address).is_file()
            assert local or (tag, address) == ("a", "https://arxiv.org/abs/1911.00068"), (tag, address)
        policy = re.search(r'Content-Security-Policy" content="([^"]*)', path.read_text())[1]
        assert policy.startswith("default-src &#39;none&#39;; img-src data:;")


def test_names_that_look_like_markup_are_text(page: Path) -> None:
    for path in page.parent.glob("*.html"):
        parsed = Page(path)

        assert HOSTILE in parsed.text
        assert not any("onerror" in attributes for _, attributes in parsed.tags)
        assert [tag for tag, _ in parsed.tags].count("script") == 1
    assert "a <b>bold</b> recipe" in Page(page).text


def test_the_tables_have_every_class_and_every_mistake(page: Path, finished: Path, hostile: Dataset) -> None:
    predictions = read_predictions(finished)
    classes = rows(page.parent / "per_class.csv")
    mistakes = rows(page.parent / "mistakes.csv")

    assert [int(row["support"]) for row in classes] == [10, 10, 10]
    assert [row["class"].lstrip("'") for row in classes] == list(hostile.class_names)
    assert len(mistakes) == int((~predictions.right).sum()) > 0
    wrong = {hostile.val.name(int(index)) for index in np.flatnonzero(~predictions.right)}
    assert {row["file"] for row in mistakes} == wrong
    assert sum(int(row["images"]) for row in rows(page.parent / "confused_pairs.csv")) == len(mistakes)
    assert "'=dog & 'cow'" in (page.parent / "per_class.csv").read_text(), "no formula for a spreadsheet"


def test_every_mistake_has_its_picture_with_and_without_gradcam(page: Path) -> None:
    pictures = [attributes for tag, attributes in Page(page).tags if tag == "img"]
    cards = page.read_text().count('<article class="card">')

    assert len(pictures) == 2 * cards > 0
    assert all(one["src"].startswith("data:image/jpeg;base64,") for one in pictures)


def test_the_predictions_are_those_of_the_evaluation_at_the_end(finished: Path, hostile: Dataset) -> None:
    predictions = read_predictions(finished)
    last = json.loads((finished / JOURNAL).read_text().splitlines()[-2])["values"]

    assert predictions.labels.tolist() == hostile.val.labels.tolist()
    assert predictions.right.mean() == pytest.approx(last["eval/top1"])
    assert predictions.loss.mean() == pytest.approx(last["eval/loss"], rel=1e-4)
    np.testing.assert_allclose(predictions.probabilities.sum(axis=1), 1, rtol=1e-5)
    assert 0 < predictions.brightness.min() < predictions.brightness.max() < 1


def test_the_page_says_what_the_run_was_and_how_to_make_it_again(page: Path) -> None:
    text = Page(page).text

    assert "one, 20" in text
    assert "without interruption" in text
    assert "at $0.5 an hour" in text
    assert "commit abc" in text
    assert re.search(r"trainer train digits --set .*epochs=2 .*--data ", text)
    assert "missed" in text, "the bar"
    assert "from epoch 2 on: mixup 0.1" in text
    assert """--set 'phases=[{"at": 0.5, "mixup": 0.1}]'""" in text


def test_the_curves_are_dotted_where_a_phase_begins(page: Path) -> None:
    dotted = "stroke-dasharray: 1,2"

    assert all(path.read_text().count(dotted) == 1 for path in (page.parent / "charts").glob("l*.svg"))
    assert dotted not in (page.parent / "charts" / "calibration.svg").read_text()


def test_a_second_report_takes_the_place_of_the_first_and_is_the_same(page: Path, finished: Path) -> None:
    first, out = page.read_bytes(), page.parent
    (out / "old.txt").touch()
    report_run(ReportOptions(folder=finished, out=out, per_class=2))

    assert page.read_bytes() == first
    assert sorted(path.name for path in out.parent.iterdir()) == [".report.lock", "report"]
    assert not (out / "old.txt").exists()


def test_a_folder_with_something_else_is_left_alone(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "precious.txt").write_text("mine")

    with pytest.raises(ConfigError, match="is no report; give a new folder"):
        report_run(ReportOptions(folder=finished, out=tmp_path))
    assert (tmp_path / "precious.txt").read_text() == "mine"


def test_a_run_that_still_goes_on_has_a_report_that_says_what_is_not_there_yet(
    finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / "going-on"
    run.mkdir()
    for name in ("recipe.json", "dataset.json"):
        shutil.copy(finished / name, run)
    (run / JOURNAL).write_text((finished / JOURNAL).read_text().splitlines(keepends=True)[0])

    report = report_run(ReportOptions(folder=run))
    predicted, measured = report.missing
    assert report.page == run / "report" / "report.html"
    assert measured.startswith("nothing is measured yet")
    assert predicted.startswith("there are no predictions yet")
    assert measured in (text := Page(report.page).text)
    assert predicted in text


def test_the_newest_checkpoint_of_a_run_that_goes_on_is_measured_if_asked_for(
    finished: Path, tmp_path: Path
) -> None:
    run = tmp_path / finished.name
    shutil.copytree(finished, run)
    left = read_predictions(run)
    (run / PREDICTIONS).unlink()

    report = report_run(ReportOptions(folder=run, evaluate=True, device="cpu"))
    assert report.missing == ()
    assert len(rows(report.folder / "mistakes.csv")) == int((~left.right).sum())


def test_without_the_data_set_it_comes_without_pictures_and_says_so(finished: Path, tmp_path: Path) -> None:
    run = tmp_path / "elsewhere"
    shutil.copytree(finished, run, ignore=shutil.ignore_patterns("checkpoints"))
    stored = json.loads((run / "dataset.json").read_text())
    (run / "dataset.json").write_text(json.dumps({**stored, "source": "/nowhere"}))

    report = report_run(ReportOptions(folder=run))
    assert "the data set is not here (it was in /nowhere)" in report.missing[0]
    assert "<img" not in report.page.read_text()
    assert "validation image " in report.page.read_text()
    assert len(rows(report.folder / "mistakes.csv")) > 0


def test_an_image_that_has_changed_has_no_picture(
    finished: Path, hostile: Dataset, tmp_path: Path, photos: Path
) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(hostile.root, data)
    shutil.copytree(finished, run)
    for path in (data / "val").rglob("*.JPEG"):
        path.write_bytes(b"no image any more")

    report = report_run(ReportOptions(folder=run, data=data))
    assert "image(s) are not as they were in training" in report.missing[0]
    assert "<img" not in report.page.read_text()


def test_another_data_set_is_refused(finished: Path, photos: Path) -> None:
    with pytest.raises(DataError, match="is another data set than the run's"):
        report_run(ReportOptions(folder=finished, data=photos))


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"\x93NUMPY"])
def test_damaged_predictions_are_named(finished: Path, tmp_path: Path, content: bytes) -> None:
    run = tmp_path / "damaged"
    shutil.copytree(finished, run)
    (run / PREDICTIONS).write_bytes(content)

    with pytest.raises(DataError, match=r"predictions\.npz cannot be read"):
        report_run(ReportOptions(folder=run))


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="is not a run"):
        report_run(ReportOptions(folder=tmp_path))


def test_other_runs_of_the_experiment_and_a_published_log_stand_beside_it(
    finished: Path, tmp_path: Path
) -> None:
    for name in ("this-0123456789", "that-0123456789"):
        shutil.copytree(finished, tmp_path / name)
    (tmp_path / "published.csv").write_text("epoch,top1,top5\n1,10,50\n2,20,60\n")

    report = report_run(
        ReportOptions(folder=tmp_path / "this-0123456789", against=(tmp_path / "published.csv",))
    )
    text = Page(report.page).text
    assert "that-0123456789" in text
    assert "20.00 in 2" in text
    assert "published" in (report.folder / "charts" / "top1.svg").read_text()


def test_a_disk_that_takes_nothing_is_named(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(ConfigError, match=r"cannot be written: (Not a directory|File exists)"):
        report_run(ReportOptions(folder=finished, out=tmp_path / "file" / "report"))
