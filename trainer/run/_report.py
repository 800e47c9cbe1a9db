"""The report of a run in a folder: its data and its network are found here, what is shown is `trainer.report`'s."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from trainer.config import stored_recipe
from trainer.dataset import Dataset, open_dataset, shown
from trainer.errors import DataError, TrainerError
from trainer.files import read_json
from trainer.predictions import Predictions
from trainer.report import OTHERS, Log, Report, Run, log_of, read_log, write_report
from trainer.run._options import ReportOptions
from trainer.run._parent import read_parent
from trainer.run._plan import DATASET, RECIPE
from trainer.tracking import JOURNAL, REPORT, read_journal

if TYPE_CHECKING:
    import torch

EVALUATED = 64  # images at a time
READ = 20  # newest journals among which other runs of the experiment are looked for

logger = logging.getLogger(__name__)


def report_run(options: ReportOptions) -> Report:
    """Write the report of a run, finished or not.

    Raises: TrackingError if there is no run; ConfigError if `against` or `out` is of no use; DataError if what the run
        left is damaged.
    """
    folder = options.folder
    history = read_journal(folder)
    try:
        recipe = stored_recipe(read_json(folder / RECIPE))
        trained_on = read_json(folder / DATASET)
        classes = tuple(str(name) for name in trained_on["class_names"])
        digest = str(trained_on["digest"])
        source = options.data or Path(str(trained_on["source"]))
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise DataError(
            f"{folder} does not say what was trained ({error}); its {RECIPE} and {DATASET} are needed for a report"
        ) from None
    dataset, missing = _find_dataset(source, digest, given=options.data is not None)
    run = Run(folder, history, recipe, tuple(map(shown, classes)), dataset, missing, read_parent(folder))
    beside = [_log(path) for path in options.against]
    others = [*beside, *_siblings(folder, run)][: max(OTHERS, len(beside))]
    return write_report(
        run,
        options.out or folder / REPORT,
        predictions=_evaluate(options, run) if options.evaluate else None,
        others=others,
        per_class=options.per_class,
        network=lambda: _network(folder),
    )


def _find_dataset(source: Path, digest: str, *, given: bool) -> tuple[Dataset | None, str]:
    """The data set that was trained on if it is here, or a sentence about why there are no pictures."""
    try:
        dataset = open_dataset(source)
    except DataError:
        if given:
            raise
        return None, (
            f"the data set is not here (it was in {shown(str(source))}), so there are no pictures, file names and "
            "sizes of images; --data names the folder where it is"
        )
    if dataset.digest == digest:
        return dataset, ""
    if given:
        raise DataError(
            f"{source} is another data set than the run's; give the one that it was trained on with --data"
        )
    return None, f"the data set in {shown(str(source))} is not the run's any more, so there are no pictures"


def _log(path: Path) -> Log:
    """A run folder, or a published log as CSV."""
    if not path.is_dir():
        return read_log(path)
    return log_of(read_journal(path), name=path.resolve().name)


def _siblings(folder: Path, run: Run) -> list[Log]:
    """The newest other runs of the experiment that were measured on the same images."""
    found = []
    ours = run.history
    journals = folder.resolve().parent.glob(f"*/{JOURNAL}")
    for journal in sorted(journals, key=lambda path: path.stat().st_mtime)[-READ:]:
        if journal.parent == folder.resolve():
            continue
        try:
            theirs = read_journal(journal.parent)
        except TrainerError:
            continue
        alike = ours.dataset and theirs.dataset and ours.dataset.val_digest == theirs.dataset.val_digest
        if alike and theirs.experiment == ours.experiment:
            found.append((theirs.started, journal.parent.name, theirs))
    newest = sorted(found, key=lambda one: one[:2], reverse=True)
    logs = [log_of(theirs, name=name) for _, name, theirs in newest]
    return [log for log in logs if log.best()][:OTHERS]  # a range test has no epochs


def _evaluate(options: ReportOptions, run: Run) -> Predictions:
    """What the newest checkpoint answers for all validation images, in fp32."""
    from trainer.dataloader import ValLoader
    from trainer.distributed import join_world
    from trainer.run._resolve import resolve_model
    from trainer.training import evaluate, full_precision

    if run.dataset is None:
        raise DataError(f"--evaluate needs the validation images, and {run.missing}")
    with join_world(options.device) as world, full_precision():
        model = resolve_model(str(run.folder), runs=run.folder.resolve().parent, device=world.device)
        images = ValLoader(run.dataset.val, model.preprocess, world, batch=EVALUATED)
        predictions = evaluate(model.network, images, world, keep=len(run.classes)).predictions
    assert predictions is not None, "they are kept"
    return predictions


def _network(folder: Path) -> torch.nn.Module | None:
    """The run's network, of its newest checkpoint; None, with a word in the log, where that cannot be had."""
    import torch

    from trainer.run._resolve import resolve_model

    try:
        network = resolve_model(str(folder), runs=folder.resolve().parent, device=torch.device("cpu")).network
    except TrainerError as error:
        logger.warning("the report has no Grad-CAM: %s", error)
        return None
    return network if isinstance(network, torch.nn.Module) else None
