"""A report is made: tables, charts and pages, in a folder that is complete or absent."""

from __future__ import annotations

import csv
import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.dataset import shown
from trainer.errors import ConfigError, TrackingError
from trainer.export import read_variants
from trainer.files import file_lock, sync_folder
from trainer.predictions import Predictions, read_predictions
from trainer.report import _charts, _drawing, _metrics
from trainer.report._facts import Run, command, facts
from trainer.report._log import Log, log_csv, log_md, log_of
from trainer.report._page import Card, Page, write_pages
from trainer.report._pictures import Explain, Photographer
from trainer.tracking import BUNDLE, REPORT_PAGE

if TYPE_CHECKING:
    import torch

    Network = Callable[[], torch.nn.Module | None]

PAIRS = 30  # most confused ones in the page
WHOLE = 50  # classes of which the whole matrix is shown
GALLERY = 24  # images of each kind in the page
SUSPECTS = 60  # suspected label errors with pictures
OTHERS = 5  # other runs beside it
LOCK_SECONDS = 600  # to wait for another report of the same run


@dataclass(frozen=True)
class Report:
    """A report that was written."""

    folder: Path
    page: Path
    missing: tuple[str, ...]  # sentences about what it lacks, and why


def write_report(
    run: Run,
    out: Path,
    *,
    predictions: Predictions | None = None,
    others: Sequence[Log] = (),
    per_class: int = 0,
    network: Network = lambda: None,
) -> Report:
    """Write the report of a run to the folder `out`: all of it or nothing.

    Args:
        run: as far as it has come.
        out: the folder; one that holds a report is replaced.
        predictions: of the validation images; None: those that the end of the training left, if there are any.
        others: runs and published logs to draw beside it.
        per_class: mistakes of each class on a page of their own; 0: no such page.
        network: answers the run's network on the CPU, in eval mode, if it can be had; called if there are pictures.

    Raises: ConfigError if `out` holds something else, or cannot be written; DataError if the run's predictions are
        damaged; TrackingError if another process writes this report and does not end.
    """
    if out.exists() and not (out / REPORT_PAGE).exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"{out} is there and is no report; give a new folder with --out")
    busy = TrackingError(f"another process writes the report {out}; wait for it")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with file_lock(out.with_name(f".{out.name}.lock"), timeout=LOCK_SECONDS, otherwise=busy):
            partial = out.with_name(f".{out.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            try:
                missing = _write(run, partial, predictions, others, per_class, network)
                shutil.rmtree(out, ignore_errors=True)
                os.replace(partial, out)
                sync_folder(out.parent)
            finally:
                shutil.rmtree(partial, ignore_errors=True)
    except OSError as error:
        raise ConfigError(
            f"the report {out} cannot be written: {error.strerror or error}; give another folder with --out"
        ) from None
    return Report(out, out / REPORT_PAGE, tuple(missing))


def _write(
    run: Run,
    out: Path,
    predictions: Predictions | None,
    others: Sequence[Log],
    per_class: int,
    network: Network,
) -> list[str]:
    missing = [run.missing] if run.missing else []
    predictions = predictions or _predictions(run, missing)
    log, known = log_of(run.history, name=run.folder.resolve().name), facts(run)
    page = Page(run=run, log=log, others=others, facts=known, command=command(run), missing=missing)
    page.bundle = read_variants(run.folder / BUNDLE)

    panels = _charts.curves(log, others, run.recipe.bar, list(run.recipe.describe_phases()))
    (out / "log.csv").write_text(log_csv(log), encoding="utf-8")
    (out / "log.md").write_text(
        log_md(log, [*known, ("Command", page.command)]), encoding="utf-8", errors="backslashreplace"
    )
    if log.epochs:
        _drawing.png(out / "curves.png", [panel for _, panel in panels.values()])
        _drawing.png(out / "thumbnail.png", [panels[name][1] for name in ("top1", "loss")], dpi=72)
        for name, (label, panel) in panels.items():
            page.curves.append(_chart(out, name, label, panel))
    else:
        missing.append("nothing is measured yet: the first values come with the first log interval")

    if predictions:
        _tables(run, out, page, predictions)
        _gallery(run, out, page, predictions, per_class, network)
    write_pages(page, out)
    return missing


def _chart(out: Path, name: str, label: str, panel: _drawing.Panel, **options: tuple[float, float]) -> str:
    drawn = _drawing.svg(panel, label=label, **options)
    (out / "charts").mkdir(exist_ok=True)
    (out / "charts" / f"{name}.svg").write_text(_drawing.svg_file(drawn), encoding="utf-8")
    return drawn


def _predictions(run: Run, missing: list[str]) -> Predictions | None:
    predictions = read_predictions(run.folder)
    if predictions is None:
        missing.append(
            "there are no predictions yet, and so no confusion, mistakes, calibration or weak spots: they come with "
            "the evaluation at the end of training, and before it with --evaluate"
        )
    elif run.dataset and len(run.dataset.val) != len(predictions):
        missing.append(
            "the predictions are of another validation set than the one that is here, and left out"
        )
        return None
    return predictions


def _tables(run: Run, out: Path, page: Page, predictions: Predictions) -> None:
    """What is counted: confusion, classes, calibration, slices."""
    classes = len(run.classes)
    page.num_images, page.top1 = len(predictions), float(predictions.right.mean())
    pairs = _metrics.confused_pairs(predictions, classes)
    page.pairs, page.num_pairs = pairs[:PAIRS], len(pairs)
    _csv(
        out / "confused_pairs.csv",
        ("first", "second", "first_as_second", "second_as_first", "images"),
        ((run.classes[p.first], run.classes[p.second], *p[2:], p.images) for p in pairs),
    )
    if classes <= WHOLE:
        page.matrix = _metrics.confusion(predictions, classes).tolist()
        _csv(
            out / "confusion.csv",
            ("label", *run.classes),
            ((name, *row) for name, row in zip(run.classes, page.matrix, strict=True)),
        )
    page.per_class = _metrics.per_class(predictions, classes)
    columns = ("precision", "recall", "f1", "top5", "support", "predicted")
    _csv(
        out / "per_class.csv",
        ("class", *columns),
        zip(run.classes, *(getattr(page.per_class, name).tolist() for name in columns), strict=True),
    )
    bins = _metrics.reliability(predictions)
    page.calibration_error = _metrics.calibration_error(bins)
    page.confidence = float(predictions.probabilities[:, 0].mean())
    page.calibration = _chart(out, "calibration", "Reliability diagram", _charts.calibration(bins))
    page.slices = _metrics.slices(predictions, run.dataset.val.sizes if run.dataset else None)
    _csv(out / "slices.csv", _metrics.Slice._fields, page.slices)
    for of in dict.fromkeys(one.of for one in page.slices):
        some = [one for one in page.slices if one.of == of]
        name = of.replace(" / ", "-by-").replace(" ", "-")
        page.slice_charts.append(
            _chart(
                out,
                name,
                f"Top-1 by {of}",
                _charts.weak_slices(some, page.top1),
                size=(4.6, 0.9 + 0.42 * len(some)),
            )
        )


def _gallery(
    run: Run,
    out: Path,
    page: Page,
    predictions: Predictions,
    per_class: int,
    network: Network,
) -> None:
    """What is looked at: mistakes, doubtful labels, and their pictures where the images are here."""
    wrong = _metrics.most_confident_wrong(predictions, len(predictions))
    unsure = _metrics.least_confident_right(predictions, GALLERY)
    suspects, instead = _metrics.label_errors(predictions, len(run.classes))
    shown_wrong, shown_suspects = wrong[:GALLERY], suspects[:SUSPECTS]
    answers = predictions.classes[:, 0]
    photos = None
    if run.dataset:
        photos = Photographer(run.dataset.val, run.recipe.preprocess, _explain(network()))
        for some in (shown_wrong, unsure, shown_suspects):
            photos.make(some.tolist(), answers[some].tolist())

    def file(index: int) -> str:
        return shown(run.dataset.val.name(index)) if run.dataset else f"validation image {index:,}"

    def card(index: int, maybe: int = -1) -> Card:
        return Card(
            file=file(index),
            truth=run.classes[predictions.labels[index]],
            maybe=run.classes[maybe] if maybe >= 0 else "",
            answers=[
                (run.classes[label], share, label == predictions.labels[index])
                for label, share in zip(
                    predictions.classes[index].tolist(),
                    predictions.probabilities[index].tolist(),
                    strict=True,
                )
            ],
            of_truth=float(predictions.label_probability[index]),
            pictures=photos.of(index) if photos else None,
        )

    page.wrong, page.num_wrong = [card(index) for index in shown_wrong.tolist()], len(wrong)
    page.unsure = [card(index) for index in unsure.tolist()]
    page.suspects, page.num_suspects = (
        [card(index, other) for index, other in zip(shown_suspects.tolist(), instead.tolist(), strict=False)],
        len(suspects),
    )
    columns = ("file", "label", "label_probability", "answer", "answer_probability")

    def row(index: int, other: int) -> tuple[object, ...]:
        probability = predictions.probabilities[index][predictions.classes[index] == other]
        label = run.classes[predictions.labels[index]]
        return (
            file(index),
            label,
            predictions.label_probability[index],
            run.classes[other],
            float(probability[0]),
        )

    _csv(out / "mistakes.csv", columns, (row(index, int(answers[index])) for index in wrong.tolist()))
    _csv(
        out / "label_errors.csv",
        columns,
        (row(*both) for both in zip(suspects.tolist(), instead.tolist(), strict=True)),
    )
    if per_class:
        labels = predictions.labels[wrong]
        for label, name in enumerate(run.classes):
            some = wrong[labels == label][:per_class]
            if photos:
                photos.make(some.tolist(), answers[some].tolist())
            if len(some):
                page.by_class.append(
                    (name, int((labels == label).sum()), [card(index) for index in some.tolist()])
                )
    if photos:
        page.places = photos.places
        if photos.unreadable:
            page.missing.append(
                f"{len(photos.unreadable):,} image(s) are not as they were in training and have no picture, e.g. "
                f"{shown(photos.unreadable[0])}"
            )


def _explain(network: torch.nn.Module | None) -> Explain | None:
    from trainer.report._gradcam import gradcam  # imports torch

    return partial(gradcam, network) if network else None


def _csv(path: Path, header: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    with path.open("w", encoding="utf-8", errors="backslashreplace", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows([_cell(value) for value in row] for row in rows)


def _cell(value: object) -> object:
    if isinstance(value, float):
        return "" if value != value else f"{value:.6g}"
    # A spreadsheet would take it for a formula.
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@")) else value
