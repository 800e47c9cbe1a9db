"""`trainer publish` as a whole: from a registered model to repositories on the Hub, and what it says."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch

import trainer.model
from tests.cli.calls import error_of, output_of
from tests.cli.conftest import command
from tests.export.conftest import photo
from tests.publish.conftest import info, weights
from tests.publish.hub import WRITE, Hub
from tests.tracking.conftest import run_info
from trainer.errors import ConfigError, PublishError
from trainer.model import rebuild
from trainer.run import PublishOptions, export_model, publish_model
from trainer.sealed import check_seal, seal
from trainer.tracking import DatasetInfo, Journal, Sample, register, save_model, sync

MODEL = "models:/digits/1"
DATASET = DatasetInfo("digits", "d" * 64, "/home/ana/digits", {"train": 1437, "val": 360, "classes": 10})
Captured = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Iterator[Path]:
    """A store with one registered ResNet-18 for the digits, and the folder of its run with its bundle."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copy(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        journal = Journal(folder / "one")
        journal.start(run_info(name="one", dataset=DATASET, tags={"gpu": "cpu"}, params={"epochs": 14}))
        journal.finish("finished")
        save_model(
            folder / "one",
            rebuild("resnet18", 10, weights("resnet18")),
            replace(info(), top1=0.5),
            [Sample(f"{seed}.JPEG", photo(seed), seed) for seed in range(2)],
            lambda _: (0.5, 1.0),
            rebuild=lambda state: trainer.model.rebuild("resnet18", 10, state),
            name="digits",
            num_images=360,
        )
        sync(folder / "one", follow=False)
        register(folder / "one")
        export_model(MODEL, folder / "one" / "bundle", runs=folder, parity=0)
        yield folder


def options(runs: Path, **changed: object) -> PublishOptions:
    return replace(PublishOptions(model=MODEL, repo="digits", runs=runs), **changed)


def test_a_model_and_its_space_are_published_once(hub: Hub, runs: Path, capsys: Captured) -> None:
    published = publish_model(options(runs, space="demo"))
    again, _ = output_of(capsys, "publish", MODEL, "--repo", "digits", "--space", "demo", "--runs", runs)

    assert published.model
    assert published.space
    assert (published.model.url, published.space.url) == (
        f"{hub.url}/ana/digits",
        f"{hub.url}/spaces/ana/demo",
    )
    assert published.model.new
    assert published.space.new
    assert published.with_timm
    assert published.with_photos
    assert again.splitlines() == [
        f"{uploaded.url} holds all of it already; nothing was uploaded"
        for uploaded in (published.model, published.space)
    ]
    assert all(repo.private and len(repo.commits) == 1 for repo in hub.repos.values())
    assert hub.repos["models", "ana/digits"].commits[0]["message"] == f"Publish {MODEL}"
    assert b"https://huggingface.co/spaces/ana/demo" in hub.repos["models", "ana/digits"].files["README.md"]


@pytest.mark.slow
def test_timm_loads_it_from_the_hub_in_one_line(
    hub: Hub,
    runs: Path,
    tmp_path: Path,
) -> None:
    """By `trainer publish` and by timm as users call them: each in its own process, led here by variables."""
    env = {
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": WRITE,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HOME": str(tmp_path / "home"),
    }
    process = command("publish", MODEL, "--repo", "digits", "--runs", runs, folder=tmp_path, **env)
    said, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert said.startswith(f"{hub.url}/ana/digits: uploaded")
    images = torch.randn(2, 3, 64, 64)
    torch.save(images, tmp_path / "images.pt")
    code = (
        "import timm, torch; network = timm.create_model('hf-hub:ana/digits', pretrained=True).eval()\n"
        "with torch.inference_mode(): torch.save(network(torch.load('images.pt')), 'logits.pt')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | env, cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr

    ours = rebuild("resnet18", 10, weights("resnet18")).to(memory_format=torch.contiguous_format)
    with torch.inference_mode():
        torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), ours(images), rtol=0, atol=0)


@pytest.mark.parametrize("here", [True, False])
def test_the_card_tells_of_the_run_whether_its_folder_is_here_or_not(
    hub: Hub,
    runs: Path,
    tmp_path: Path,
    here: bool,
) -> None:
    if not here:
        shutil.copytree(runs, tmp_path / "runs", ignore=shutil.ignore_patterns("one"))
        (tmp_path / "runs" / "one").mkdir()
    told = options(runs if here else tmp_path / "runs", dry_run=True, out=tmp_path / "out")
    publish_model(told)
    text = (tmp_path / "out" / "model" / "README.md").read_text()

    assert "- gpu: `cpu`" in text
    assert "epochs: 14" in text
    assert "`1,437 train, 360 val, 10 classes`" in text
    assert "/home/ana" not in text
    assert not hub.asked


def test_a_dry_run_writes_what_would_be_uploaded_and_asks_nobody(
    hub: Hub,
    runs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    monkeypatch.setenv("HF_TOKEN", "")
    arguments = (
        "publish",
        MODEL,
        "--repo",
        "ana/digits",
        "--space",
        "demo",
        "--runs",
        runs,
        "--dry-run",
        "--json",
    )
    said, _ = output_of(capsys, *arguments, "--out", tmp_path / "out")

    assert not hub.asked
    assert json.loads(said) | {"folder": str(tmp_path / "out"), "model": None, "space": None} == json.loads(
        said
    )
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model", "space"}
    for folder in ("model", "space"):
        check_seal(tmp_path / "out" / folder, required=("README.md",))


@pytest.mark.slow
def test_the_network_is_published_as_its_bundle_in_the_run_folder_has_it_if_that_is_whole(
    runs: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "runs"
    shutil.copytree(runs, mine)
    bundle = mine / "one" / "bundle"
    half = onnx.load(bundle / "model_fp16.onnx")
    half.doc_string = "as registered"
    onnx.save(half, bundle / "model_fp16.onnx")
    seal(bundle)

    def published(name: str) -> str:
        out = tmp_path / name
        publish_model(options(mine, repo="ana/digits", dry_run=True, out=out))
        check_seal(out / "model" / "bundle", required=("model_batch1.onnx",), ignored=None)
        return str(onnx.load(out / "model" / "bundle" / "model_fp16.onnx").doc_string)

    assert published("sound") == "as registered"
    with (bundle / "model_fp16.onnx").open("ab") as file:
        file.write(b"x")
    assert published("damaged") == "", "made anew"


def test_a_space_that_fails_is_said_with_where_the_model_is(
    hub: Hub,
    runs: Path,
) -> None:
    hub.answers["/api/spaces/ana/demo/commit/"] = 503

    with pytest.raises(
        PublishError, match=r"the model is at .*/ana/digits, its Space is not: .* trouble of its own"
    ):
        publish_model(options(runs, space="demo"))
    assert not hub.repos["spaces", "ana/demo"].commits


def test_a_name_that_is_not_ours_is_said_before_anything_is_uploaded(
    hub: Hub,
    runs: Path,
) -> None:
    with pytest.raises(PublishError, match="ben/demo"):
        publish_model(options(runs, space="ben/demo"))
    assert not hub.repos["models", "ana/digits"].commits


def test_imagenets_photos_are_refused(
    hub: Hub,
    runs: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("trainer.publish._photos.WNID", __import__("re").compile("[0-9]"))

    with pytest.raises(ConfigError, match="whose terms forbid"):
        publish_model(options(runs, with_photos=True))
    assert not hub.repos


def test_a_report_is_published_if_it_is_there_and_its_photos_may_be_shown(
    hub: Hub, runs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"has no report in .*/one; make it with `trainer report`"):
        publish_model(options(runs, with_report=True))
    monkeypatch.setattr("trainer.publish._photos.FREE", {})
    with pytest.raises(ConfigError, match="the report shows photos of the data set; add --with-photos"):
        publish_model(options(runs, with_report=True))
    assert not hub.repos


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--repo", "a/b/c"], "--repo 'a/b/c' is no name of a repository"),
        (["--repo", "digits", "--space=-x"], "--space '-x' is no name of a repository"),
        (["--repo", "digits", "--out", "folder"], "--out is the folder of --dry-run"),
        (["--repo", "digits", "--dry-run", "--out", "."], "is not empty; give --out a new folder"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_else(
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
    arguments: list[str],
    says: str,
) -> None:
    (tmp_path / "folder.txt").touch()
    monkeypatch.chdir(tmp_path)

    assert says in error_of(capsys, "publish", MODEL, *arguments)
    assert not hub.asked


def test_without_a_token_nothing_is_loaded(
    hub: Hub,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Captured,
) -> None:
    monkeypatch.delenv("HF_TOKEN")

    assert "there is no token of the Hugging Face Hub" in error_of(
        capsys, "publish", "models:/nobody/1", "--repo", "digits", "--runs", tmp_path
    )
    assert not hub.asked
