"""Descriptions say what a run is made of and what to do with its model, and leave alone what people write."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path

import pytest

from tests.tracking.conftest import DATASET, run_info
from tests.tracking.models import INFO, finished_run, network, register_it
from trainer.tracking import Journal, read_journal, register, sync, tracking_uri
from trainer.tracking._description import (
    NOTE,
    may_replace,
    model_description,
    run_description,
    version_description,
)
from trainer.tracking._history import RunHistory
from trainer.tracking._saved_model import SavedModel
from trainer.tracking._server import connect

SAVED = SavedModel("tiny", "w" * 64, "m" * 64, 0.7613, 0.9288, 50_000)
TAGS = {
    "recipe": "rn50-baseline",
    "gpu": "NVIDIA A10G",
    "world_size": "4",
    "precision": "bf16",
    "versions": "trainer 0.1.0, torch 2.14.0",
    "git_commit": "a1b2c3d4e5f6",
}


def history(folder: Path, **changed: object) -> RunHistory:
    params = {"epochs": 90, "global_batch": 1024}
    Journal(folder).start(run_info(params=params, tags=TAGS, **changed))
    return read_journal(folder)


def test_a_run_says_what_it_is_made_of_and_at_its_end_what_came_out(tmp_path: Path) -> None:
    run = history(tmp_path, description="Longer warm-up.")
    begun, ended = run_description(run), run_description(run, SAVED, "models:/tiny/3")

    for text in (begun, ended):
        assert "Longer warm-up.\n\n- **" in text
        assert "- **Recipe**: `rn50-baseline`, 90 epochs, 1,024 images per step\n" in text
        assert "- **Data set**: photos (`dddddddddd`): 20 train, 9 val\n" in text
        assert "- **Hardware**: 4 x NVIDIA A10G, bf16\n" in text
        assert "commit `a1b2c3d4e5`" in text
    assert "top-1" not in begun
    assert ended.startswith("top-1 76.13%, top-5 92.88% of 50,000 validation images, in fp32\n")
    assert 'mlflow.pytorch.load_model("models:/tiny/3")' in ended
    assert "trainer export models:/tiny/3 --out bundle" in ended


def test_a_part_of_a_published_data_set_is_told_as_one(tmp_path: Path) -> None:
    part = replace(
        DATASET, completeness="not ImageNet as published: 3 of 50,000 validation images are missing"
    )

    text = run_description(history(tmp_path, dataset=part))

    assert "20 train, 9 val; not ImageNet as published: 3 of 50,000 validation images are missing\n" in text


def test_a_version_says_what_its_input_is_and_a_model_what_candidate_means(tmp_path: Path) -> None:
    version = version_description(history(tmp_path), SAVED, asdict(INFO), "models:/tiny/3")
    model = model_description(history(tmp_path), SAVED, asdict(INFO))

    assert version.startswith("top-1 76.13%, ")
    assert "- **Network**: tiny, 3 classes\n" in version
    assert "N x 3 x 16 x 16, float32, RGB: shorter side resized to 18, centre crop" in version
    assert "0..1 minus mean (0.5, 0.5, 0.5), divided by std (0.2, 0.2, 0.2)" in version
    assert "models:/tiny@candidate" in model


def test_a_run_of_which_little_is_known_has_a_description_all_the_same(tmp_path: Path) -> None:
    Journal(tmp_path).start(run_info(params={}))

    assert "Data set" in run_description(read_journal(tmp_path))


def test_what_somebody_has_edited_is_not_replaced(tmp_path: Path) -> None:
    text = run_description(history(tmp_path))

    assert all(may_replace(ours) for ours in (None, "", text))
    assert not any(may_replace(theirs) for theirs in ("mine", "Mind: " + text, text.replace("90", "91")))


def test_run_version_and_model_are_described_in_mlflow(runs: Path) -> None:
    sync(finished_run(runs / "r"), follow=False)
    client = connect(tracking_uri(runs))
    (run,) = client.search_runs([client.get_experiment_by_name("photos").experiment_id])
    assert "top-1" not in run.data.tags[NOTE]

    registered = register_it(runs / "r", network())

    run = client.get_run(registered.run_id)
    version = client.get_model_version("tiny", str(registered.version))
    assert "top-1 50.00%" in run.data.tags[NOTE]
    assert (run.data.tags["top1"], run.data.tags["top5"], run.data.tags["val_images"]) == ("0.5", "1.0", "40")
    assert "models:/tiny/1" in version.description
    assert "models:/tiny@candidate" in client.get_registered_model("tiny").description
    assert run.data.metrics == {}

    sync(runs / "r", follow=False)  # later, on its own: nothing is lost
    register(runs / "r")
    assert client.get_run(registered.run_id).data.tags == run.data.tags


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_description_that_somebody_wrote_in_mlflow_stays(runs: Path, when: str) -> None:
    sync(finished_run(runs / "r"), follow=False)
    client = connect(tracking_uri(runs))
    (run,) = client.search_runs([client.get_experiment_by_name("photos").experiment_id])
    if when == "after":
        register_it(runs / "r", network())
        client.update_model_version("tiny", "1", "mine")
    client.set_tag(run.info.run_id, NOTE, "mine")

    register_it(runs / "r", network())
    sync(runs / "r", follow=False)

    assert client.get_run(run.info.run_id).data.tags[NOTE] == "mine"
    assert (client.get_model_version("tiny", "1").description == "mine") == (when == "after")


def test_a_run_that_goes_on_elsewhere_says_so(runs: Path) -> None:
    for gpu in ("T4", "A10G"):
        Journal(runs / "r").start(run_info(tags={"gpu": gpu}))
        sync(runs / "r", follow=False)

    client = connect(tracking_uri(runs))
    (run,) = client.search_runs([client.get_experiment_by_name("photos").experiment_id])
    assert "1 x A10G" in run.data.tags[NOTE]
