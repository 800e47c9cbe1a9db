"""MLflow's pages of a real run, as a browser shows them; pictures of them are kept in screenshots/."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.browser import chromium  # noqa: F401
from tests.cli.conftest import ROOT, SMALL, command
from tests.tracking.conftest import Server
from trainer import metrics
from trainer.tracking._system_metrics import SYSTEM

WIDTH, HEIGHT = 1440, 900
ASSISTANT = 1060  # where MLflow's Assistant begins, at a first visit
SETTINGS = ["epochs=6", "global_batch=128", "log_every=4"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(digits: Path, a_server: Server, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """What a finished run of the digits prints, and what it said meanwhile as `said`."""
    settings = [word for setting in SETTINGS for word in ("--set", setting)]
    process = command(
        *(
            "train",
            "digits",
            *settings,
            *SMALL,
            "--data",
            digits,
            "--device",
            "cpu",
            "--price",
            "0.5",
            "--no-export",
            "--json",
        ),
        folder=tmp_path_factory.mktemp("watched"),
        MLFLOW_TRACKING_URI=a_server.uri,
    )
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return {**json.loads(out), "said": err}


@pytest.fixture
def page(browser: Any, request: pytest.FixtureRequest) -> Iterator[Any]:
    """A window of a browser that has never been here."""
    page = browser.new_page(viewport={"width": WIDTH, "height": HEIGHT})
    page.set_default_timeout(30_000)
    yield page
    (ROOT / "screenshots").mkdir(exist_ok=True)
    page.screenshot(path=ROOT / "screenshots" / f"{request.node.name.removeprefix('test_')[:60]}.png")
    page.close()


def in_first_screen(element: Any) -> bool:
    """Whether all of it is seen without scrolling."""
    element.wait_for()
    box = element.bounding_box()
    return bool(box["y"] >= 0 and box["y"] + box["height"] <= HEIGHT and box["x"] + box["width"] <= WIDTH)


def link(run: dict[str, Any], name: str) -> str:
    """The address that the run has printed behind `name`."""
    return re.search(rf" {name} (http\S+)", run["said"])[1]


def test_the_run_that_is_watched_opens_on_its_accuracy(run: dict[str, Any], page: Any) -> None:
    page.goto(link(run, "watch"))

    assert run["url"] == link(run, "watch")
    for chart in ("top1", "top5", "loss"):
        assert in_first_screen(page.get_by_text(f"(eval/{chart})").first), chart
    assert page.get_by_text("Model training").is_visible()


def test_the_overview_of_a_run_has_its_result_in_the_first_screen(run: dict[str, Any], page: Any) -> None:
    page.goto(link(run, "watch").replace("/model-metrics", ""))

    assert in_first_screen(page.get_by_text(f"top-1 {run['top1']:.2%}").first)
    assert not page.get_by_text("No description").is_visible()


def test_the_report_is_linked_from_the_overview_and_opens_from_its_artifact(
    run: dict[str, Any], page: Any
) -> None:
    overview = link(run, "watch").replace("/model-metrics", "")
    page.goto(overview)
    report = page.get_by_role("link", name="curves, mistakes, confusion").first
    report.wait_for(state="attached")
    page.goto(
        report.get_attribute("href")
        if "://" in report.get_attribute("href")
        else overview.partition("#")[0] + report.get_attribute("href")
    )

    inside = page.frame_locator("iframe")
    inside.get_by_role("heading", name="Confusion").wait_for()
    assert inside.locator("svg").count() >= 6
    assert inside.get_by_text(f"{run['top1']:.2%}").first.is_visible()


def test_the_list_of_runs_has_the_columns_that_matter(run: dict[str, Any], page: Any) -> None:
    page.goto(link(run, "all runs"))

    page.get_by_text(Path(run["run"]).name).first.wait_for()
    for column in (metrics.EPOCH, metrics.VAL_TOP1, metrics.TRAIN_LOSS):
        box = page.locator(f".ag-header-cell[col-id='metrics.`{column}`']").bounding_box()
        assert box["x"] + box["width"] < ASSISTANT, column
    assert not page.get_by_text(metrics.GPU_MEMORY).is_visible()


def test_a_version_says_what_it_is_and_its_tags_fit_on_a_page(run: dict[str, Any], page: Any) -> None:
    name, version = run["model"].removeprefix("models:/").split("/")
    server = run["url"].partition("/#")[0]
    page.goto(f"{server}/#/models/{name}/versions/{version}?workflowType=machine_learning")

    assert in_first_screen(page.get_by_text(f"top-1 {run['top1']:.2%}").first)
    assert in_first_screen(page.get_by_text("1,437 train, 360 val, 10 classes"))
    tags = page.locator("table").first.locator("tr").all_inner_texts()
    assert len(tags) <= 1 + 5 + 3, "five that are read, and digests"


def test_no_chart_of_a_run_is_a_constant_or_a_single_point(run: dict[str, Any]) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(run["tracking_uri"])
    keys = [key for key in client.get_run(run["run_id"]).data.metrics if not key.startswith(SYSTEM)]
    values = {key: [point.value for point in client.get_metric_history(run["run_id"], key)] for key in keys}

    assert {metrics.VAL_TOP1, metrics.TRAIN_LOSS, metrics.EPOCH} <= values.keys()
    assert [key for key, measured in values.items() if len(set(measured)) < 2] == []
