"""The whole way on the command line: train, evaluate every form of the model, export, stop and go on."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import SETTINGS, command
from trainer import metrics
from trainer.cli import main
from trainer.tracking import RunHistory, read_journal

pytestmark = pytest.mark.slow


MEASURED = {
    metrics.TRAIN_LOSS,
    metrics.TRAIN_TOP1,
    metrics.TRAIN_TOP5,
    metrics.LR,
    metrics.VAL_LOSS,
    metrics.VAL_TOP1,
    metrics.VAL_TOP5,
}


def trainer(*arguments: Any, folder: Path) -> Any:
    """The result of a command that is run in this process: importing torch and MLflow once is enough."""
    return json.loads(said(*arguments, folder=folder))


def said(*arguments: Any, folder: Path) -> str:
    """What a command that is run in this process prints."""
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(out):
        patch.chdir(folder)
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        assert main([str(argument) for argument in arguments]) == 0
    return out.getvalue()


def trained(*arguments: Any, folder: Path) -> Any:
    """The result of a command in a process of its own, as long-running ones are used."""
    process = command(*arguments, folder=folder)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return json.loads(out)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("whole-way")


@pytest.fixture(scope="module")
def run(folder: Path, photos: Path) -> Any:
    return trained("train", "digits", *SETTINGS, "--data", photos, "--device", "cpu", "--json", folder=folder)


@pytest.fixture(scope="module")
def bundle(folder: Path, run: dict[str, Any]) -> Path:
    return Path(
        trainer("export", "models:/cats-and-dogs@candidate", "--out", "bundle", "--json", folder=folder)[
            "bundle"
        ]
    )


def test_a_finished_run_is_registered_and_done(folder: Path, run: dict[str, Any]) -> None:
    assert run["model"] == "models:/cats-and-dogs/1"
    assert run["num_images"] == 9
    assert 0 < run["hours"] < 0.1
    assert run["usd"] is None
    assert read_journal(folder / run["run"]).status == "finished"


def test_mlflow_has_every_point_of_the_journal_once(folder: Path, run: dict[str, Any]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    points = read_journal(folder / run["run"]).points
    synced = [
        (key, metric.step, metric.value)
        for key in {point.key for point in points}
        for metric in client.get_metric_history(run["run_id"], key)
    ]

    assert sorted(synced) == sorted((point.key, point.step, point.value) for point in points)
    assert client.get_run(run["run_id"]).info.status == "FINISHED"
    tags = client.get_run(run["run_id"]).data.tags
    assert {"recipe", "git_commit", "image", "gpu", "world_size", "dataset_digest"} <= set(tags)
    assert tags["parameters"] == "23512130"
    assert {"recipe.json", "dataset.json", "model.txt"} <= {
        file.path for file in client.list_artifacts(run["run_id"])
    }
    assert "layer4.2" in (folder / run["run"] / "model.txt").read_text()


def test_its_bundle_is_measured_and_sent_and_export_copies_it(
    folder: Path, run: dict[str, Any], bundle: Path
) -> None:
    from mlflow import MlflowClient

    made, copy = folder / run["bundle"], folder / bundle
    version = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db").get_model_version("cats-and-dogs", "1")

    assert made == folder / run["run"] / "bundle"
    assert (copy / "SHA256SUMS").read_bytes() == (made / "SHA256SUMS").read_bytes()
    assert version.tags["bundle_sha256"] == hashlib.sha256((made / "SHA256SUMS").read_bytes()).hexdigest()
    assert abs(float(version.tags["onnx_fp32_top1"]) - run["top1"]) < 1.5 / 9
    assert "model_fp16.onnx" in (folder / run["report"]).read_text()


def test_its_report_is_written_and_linked_in_mlflow(folder: Path, run: dict[str, Any]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    page = (folder / run["report"]).read_text()

    assert folder / run["report"] == folder / run["run"] / "report" / "report.html"
    assert f"{run['top1']:.2%}" in page
    assert "Grad-CAM" in page or "answered rightly" in page
    assert "finished" in page
    assert "report/report.html" in {one.path for one in client.list_artifacts(run["run_id"], "report")}
    assert "artifacts/report/report.html" in client.get_run(run["run_id"]).data.tags["mlflow.note.content"]


def test_the_same_command_again_trains_nothing_and_says_so(
    folder: Path, run: dict[str, Any], photos: Path
) -> None:
    again = trainer(
        "train", "digits", *SETTINGS, "--data", photos, "--device", "cpu", "--json", folder=folder
    )

    assert again == {**run, "again": True}


@pytest.mark.parametrize("form", ["alias", "version", "run", "folder", "checkpoint", "bundle"])
def test_every_form_of_the_model_has_the_same_accuracy(
    folder: Path, run: dict[str, Any], bundle: Path, photos: Path, form: str
) -> None:
    checkpoint = max((folder / run["run"] / "checkpoints").glob("step-*.pt"))
    forms = {
        "alias": "models:/cats-and-dogs@candidate",
        "version": run["model"],
        "run": f"runs:/{run['run_id']}/model",
        "folder": run["run"],
        "checkpoint": checkpoint,
        "bundle": bundle,
    }
    arguments = ["evaluate", forms[form], "--data", photos, "--device", "cpu", "--per-class", "--json"]
    measured = trainer(*arguments, folder=folder)
    classes = measured["classes"]

    assert (measured["top1"], measured["num_images"]) == (run["top1"], 9)
    assert {one["wnid"]: one["num_images"] for one in classes} == {"cat": 5, "dog": 4}
    assert sum(one["top1"] * one["num_images"] for one in classes) == pytest.approx(9 * run["top1"])
    assert classes[0]["top1"] <= classes[1]["top1"]


def test_two_processes_share_the_images_of_an_evaluation(
    folder: Path, run: dict[str, Any], photos: Path
) -> None:
    arguments = ["evaluate", run["model"], "--data", photos, "--device", "cpu", "--per-class", "--json"]
    process = command(*arguments, "--record", "--nproc-per-node", "2", folder=folder)
    shared, err = process.communicate(timeout=300)
    alone = trainer(*arguments, folder=folder)

    assert process.returncode == 0, err
    assert json.loads(shared) == {**alone, "loss": pytest.approx(alone["loss"])}


def test_what_was_recorded_is_at_the_version_which_then_becomes_the_champion(
    folder: Path, run: dict[str, Any], photos: Path
) -> None:
    from mlflow import MlflowClient

    evaluate = ["evaluate", "models:/cats-and-dogs@candidate", "--data", photos, "--device", "cpu", "--json"]
    measured = trainer(*evaluate, "--record", folder=folder)
    done = trainer("promote", "cats-and-dogs", "--json", folder=folder)

    client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    tags = client.get_model_version_by_alias("cats-and-dogs", "champion").tags
    noted = float(tags[f"top1_of_{tags['val_digest'][:12]}"])
    assert noted == pytest.approx(measured["top1"], abs=1e-6)
    assert (done["model"], done["previous"], done["moved"]) == (run["model"], None, True)
    assert "champion of cats-and-dogs already" in said("promote", run["run"], folder=folder)
    with pytest.raises(AssertionError):  # there is nothing to go back to
        said("rollback", "cats-and-dogs", folder=folder)


def test_what_is_wrong_with_a_model_is_said_once_and_not_by_each_process(folder: Path, photos: Path) -> None:
    process = command("evaluate", "nothing.pt", "--data", photos, "--nproc-per-node", "2", folder=folder)
    _, err = process.communicate(timeout=300)

    assert process.returncode == 2
    assert err.count("trainer: ") == 1


def test_classes_and_mirror_images_are_shown_where_they_are_asked_for(
    folder: Path, run: dict[str, Any], bundle: Path, photos: Path
) -> None:
    arguments = ["--data", photos, "--device", "cpu", "--tta"]
    plain = trainer("evaluate", run["run"], *arguments[:-1], "--json", folder=folder)
    here, there = (
        trainer("evaluate", form, *arguments, "--json", folder=folder) for form in (run["run"], bundle)
    )
    shown = said("evaluate", run["run"], *arguments, "--per-class", folder=folder)

    assert (plain["tta"], here["tta"], "classes" in here) == (False, True, False)
    assert here["loss"] != plain["loss"]
    assert here["loss"] == pytest.approx(
        there["loss"], abs=0.02
    )  # the bundle's is of averaged log-probabilities
    assert "of 9 validation images, averaged over each image and its mirror" in shown
    assert [line.split()[-1] for line in shown.splitlines()[-2:]] == ["images", "images"]
    assert {line.split()[0] for line in shown.splitlines()[-2:]} == {"cat", "dog"}


def test_a_bundle_is_never_written_over(folder: Path, bundle: Path) -> None:
    process = command(
        "export", "models:/cats-and-dogs@candidate", "--out", "bundle", "--parity", "none", folder=folder
    )
    _, err = process.communicate(timeout=300)

    assert process.returncode == 2
    assert err.startswith("trainer: ")
    assert err.count("\n") == 1


def test_a_run_stopped_by_sigterm_goes_on_to_the_same_end(
    folder: Path, run: dict[str, Any], photos: Path
) -> None:
    arguments = [
        "train",
        "digits",
        *SETTINGS,
        "--data",
        photos,
        "--device",
        "cpu",
        "--json",
        "--no-report",
        "--no-export",
        "--name",
        "stopped",
    ]
    process = command(*arguments, folder=folder)
    journals: list[Path] = []
    while not journals or metrics.TRAIN_LOSS not in journals[0].read_text():
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.05)
        journals = list(folder.glob("runs/stopped-*/journal.jsonl"))
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)

    assert process.returncode == 75, err
    assert "start the same command again to go on" in err
    assert "Traceback" not in err
    assert read_journal(journals[0].parent).status == "interrupted"

    before = read_journal(journals[0].parent).seconds
    resumed = trained(*arguments, "--price", "36", folder=folder)
    assert 0 < before < 3600 * resumed["hours"]
    assert resumed["usd"] == pytest.approx(36 * resumed["hours"])
    assert resumed["top1"] == run["top1"]
    unbroken = [p[:3] for p in read_journal(folder / run["run"]).points if p.key in MEASURED]
    broken = [p[:3] for p in read_journal(journals[0].parent).points if p.key in MEASURED]
    assert broken == unbroken


def test_two_processes_take_the_same_steps_as_one(folder: Path, run: dict[str, Any], photos: Path) -> None:
    two = trained(
        "train",
        "digits",
        *SETTINGS,
        "--data",
        photos,
        "--device",
        "cpu",
        "--nproc-per-node",
        "2",
        "--no-report",
        "--no-export",
        "--name",
        "two",
        "--json",
        folder=folder,
    )
    of_one, of_two = read_journal(folder / run["run"]), read_journal(folder / two["run"])

    def values(history: RunHistory, key: str) -> list[tuple[int, float]]:
        return [(point.step, point.value) for point in history.points if point.key == key]

    assert of_two.tags["world_size"] == "2"
    assert values(of_two, metrics.LR) == values(of_one, metrics.LR)
    assert two["num_images"] == 9


def test_two_processes_begin_with_a_registered_version_and_are_shown_below_its_run(
    folder: Path, run: dict[str, Any], photos: Path
) -> None:
    from mlflow import MlflowClient

    options = [
        "--from",
        run["model"],
        "--set",
        "epochs=1",
        "--set",
        "schedule.warmup_epochs=0",
        "--name",
        "child",
    ]
    child = trained(
        "train",
        "digits",
        *SETTINGS,
        *options,
        "--data",
        photos,
        "--device",
        "cpu",
        "--nproc-per-node",
        "2",
        "--no-report",
        "--no-export",
        "--json",
        folder=folder,
    )
    client = MlflowClient(f"sqlite:///{folder}/runs/mlflow.db")
    tags = client.get_run(child["run_id"]).data.tags
    first = {p.key: p.value for p in read_journal(folder / child["run"]).points if p.step == 0}

    assert (first[metrics.VAL_TOP1], first[metrics.VAL_TOP5]) == (run["top1"], run["top5"])
    assert tags["parent_model"] == run["model"]
    assert tags["parent_digest"] == client.get_model_version("cats-and-dogs", "1").tags["weights_sha256"]
    assert tags["parent_run_id"] == tags["mlflow.parentRunId"] == run["run_id"]
    assert f"Began with**: the weights of run `{run['run_id']}`" in tags["mlflow.note.content"]


def test_bad_input_found_by_the_processes_keeps_its_exit_code(folder: Path, photos: Path) -> None:
    """torchrun answers 1 and a traceback to everything; the launcher must not."""
    process = command(
        "train",
        "digits",
        *SETTINGS,
        "--set",
        "global_batch=7",
        "--data",
        photos,
        "--device",
        "cpu",
        "--nproc-per-node",
        "2",
        folder=folder,
    )
    _, err = process.communicate(timeout=300)

    assert process.returncode == 2
    assert "cannot be shared evenly" in err
    assert "Traceback" not in err
