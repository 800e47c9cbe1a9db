"""A report goes to MLflow with its run, at once or later, and what people wrote stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tracking.models import finished_run, network, register_it
from trainer.errors import TrackingError
from trainer.tracking import REPORT, REPORT_PAGE, register, send_report, sync, tracking_uri
from trainer.tracking._description import NOTE, may_replace
from trainer.tracking._server import connect


def write_report(run: Path) -> None:
    """What looks like one."""
    (run / REPORT / "charts").mkdir(parents=True)
    (run / REPORT / REPORT_PAGE).write_text("<h1>report</h1>")
    (run / REPORT / "charts" / "loss.svg").write_text("<svg/>")


def descriptions(runs: Path, run_id: str) -> list[str]:
    """Of the run and of its version."""
    client = connect(tracking_uri(runs))
    (version,) = client.search_model_versions(f"run_id='{run_id}'")
    return [client.get_run(run_id).data.tags[NOTE], str(version.description)]


def artifacts(runs: Path, run_id: str) -> set[str]:
    return {one.path for one in connect(tracking_uri(runs)).list_artifacts(run_id, REPORT)}


def test_a_report_is_an_artifact_and_is_linked_first_from_run_and_version(runs: Path) -> None:
    sync(finished_run(runs / "r"), follow=False)
    registered = register_it(runs / "r", network())
    write_report(runs / "r")
    send_report(runs / "r")

    assert artifacts(runs, registered.run_id) == {f"{REPORT}/{REPORT_PAGE}", f"{REPORT}/charts"}
    for text in descriptions(runs, registered.run_id):
        page = f"runs/{registered.run_id}/artifacts/report/report.html?workflowType=machine_learning"
        first = next(line for line in text.splitlines() if line.startswith("- **"))
        assert first.startswith("- **Report**: [curves, mistakes, confusion](#/experiments/")
        assert first.endswith(f"{page})")
        assert (
            f"![curves of the training](get-artifact?path=report%2Fthumbnail.png&run_uuid={registered.run_id})"
            in text
        )
        assert may_replace(text), "it is ours still"


def test_what_is_sent_again_is_there_once(runs: Path) -> None:
    sync(finished_run(runs / "r"), follow=False)
    registered = register_it(runs / "r", network())
    write_report(runs / "r")
    send_report(runs / "r")
    once = descriptions(runs, registered.run_id)
    send_report(runs / "r")
    sync(runs / "r", follow=False)
    register(runs / "r")

    assert descriptions(runs, registered.run_id) == once


def test_a_report_that_was_made_before_is_sent_by_sync_and_linked_by_register(runs: Path) -> None:
    finished_run(runs / "r")
    write_report(runs / "r")
    sync(runs / "r", follow=False)
    registered = register_it(runs / "r", network())

    assert f"{REPORT}/{REPORT_PAGE}" in artifacts(runs, registered.run_id)
    assert all("- **Report**" in text for text in descriptions(runs, registered.run_id))


def test_what_somebody_has_written_stays(runs: Path) -> None:
    sync(finished_run(runs / "r"), follow=False)
    registered = register_it(runs / "r", network())
    client = connect(tracking_uri(runs))
    client.set_tag(registered.run_id, NOTE, "mine")
    write_report(runs / "r")
    send_report(runs / "r")

    assert descriptions(runs, registered.run_id)[0] == "mine"


@pytest.mark.slow
def test_a_server_that_does_not_answer_is_named(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished_run(runs / "r")
    write_report(runs / "r")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")

    with pytest.raises(TrackingError, match=r"127\.0\.0\.1:9"):
        send_report(runs / "r")
