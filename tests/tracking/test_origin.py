"""The run that made a model: from its folder where that is here, else from MLflow."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

from tests.tracking.conftest import DATASET, run_info
from tests.tracking.models import network, register_it
from trainer.tracking import Journal, LoadedModel, load_model, origin_of, sync
from trainer.tracking._server import connect


def a_run(runs: Path) -> LoadedModel:
    """A registered model of a run whose journal is synced."""
    journal = Journal(runs / "one")
    journal.start(run_info(name="one", tags={"gpu": "cpu"}, params={"epochs": 14}))
    journal.finish("finished")
    sync(runs / "one", follow=False)
    return load_model(register_it(runs / "one", network()).uri, runs=runs)


def test_a_run_folder_and_mlflow_tell_the_same_and_the_server_no_names(runs: Path) -> None:
    model = a_run(runs)
    here = origin_of(model, runs)
    shutil.rmtree(runs / "one")
    there = origin_of(model, runs)

    assert here.run == runs / "one"
    assert there.run is None
    assert here.history.params == {"epochs": 14}
    assert there.history.params == {"epochs": "14"}
    assert here.history.dataset == DATASET
    assert there.history.dataset == replace(DATASET, digest=DATASET.digest[:36], source="", val_digest="")
    assert there.history.tags["gpu"] == "cpu"
    assert not [key for key in there.history.tags if key.startswith("mlflow.")]


def test_what_somebody_else_has_written_as_the_data_set_counts_nothing(runs: Path) -> None:
    model = a_run(runs)
    shutil.rmtree(runs / "one")
    import sqlite3

    connect(f"sqlite:///{runs / 'mlflow.db'}")
    with sqlite3.connect(runs / "mlflow.db") as database:
        database.execute("UPDATE datasets SET dataset_profile = ?", ('{"train": "many"}',))
    history = origin_of(model, runs).history

    assert history.dataset
    assert history.dataset.counts == {}


def test_a_checkpoint_names_its_run_folder_and_one_that_lies_alone_nothing(
    runs: Path, tmp_path: Path
) -> None:
    model = a_run(runs)
    checkpoint = replace(model, registered=None, source=str(runs / "one" / "checkpoints" / "step-1.pt"))

    assert origin_of(checkpoint, runs).run == runs / "one"
    alone = origin_of(replace(checkpoint, source=str(tmp_path / "a" / "b.pt")), runs)
    assert (alone.run, alone.history.dataset) == (None, None)
