"""A MODEL in any form is shown; tests/demo has what is shown, with a stand-in for Gradio's interpreter here."""

from __future__ import annotations

import os
import socket
import sys
from pathlib import Path

import pytest

from tests.conftest import free_port
from tests.run.test_export_model import registered, runs  # noqa: F401
from trainer.errors import ConfigError, ProcessesFailed, TrackingError
from trainer.run import export_model, show_demo
from trainer.run._demo import ENVIRONMENT

# Notes what it was asked to show, and ends as the demo does on wrong input.
STAND_IN = """#!/bin/sh
set -eu
(cd "$3" && sha256sum --check --quiet SHA256SUMS)
echo "$2 $3 $GRADIO_SERVER_PORT $DEMO_HOSTS" >"$(dirname "$0")/shown"
exit 3
"""


@pytest.fixture
def gradio(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the interpreter that is found beside the trainer's."""
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    folder = tmp_path / ENVIRONMENT / "bin"
    folder.mkdir(parents=True)
    (folder / "python").write_text(STAND_IN)
    (folder / "python").chmod(0o755)
    return folder


def test_a_registered_model_is_shown_from_a_bundle_that_is_gone_afterwards_and_a_bundle_where_it_lies(
    photos: Path,
    runs: Path,  # noqa: F811
    gradio: Path,
    tmp_path: Path,
) -> None:
    model, port = registered(photos, runs, "one", 1, "tiny"), free_port()
    export_model(model, tmp_path / "bundle", runs=runs)
    shown = []
    for given in (model, str(tmp_path / "bundle")):
        with pytest.raises(ProcessesFailed) as failed:
            show_demo(given, port=port, runs=runs)
        assert failed.value.exit_code == 3
        shown.append((gradio / "shown").read_text().split())

    (app, temporary, at, hosts), (_, bundle, *_) = shown
    assert app.endswith("trainer/demo/app.py")
    assert (at, hosts) == (str(port), "localhost,127.0.0.1")
    assert not Path(temporary).parent.exists()
    assert Path(bundle) == tmp_path / "bundle"


def test_what_is_wrong_is_said_in_a_sentence(
    runs: Path,  # noqa: F811
    gradio: Path,
) -> None:
    with pytest.raises(TrackingError, match="there is no registered model nobody"):
        show_demo("models:/nobody@candidate", port=free_port(), runs=runs)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} of 127.0.0.1 cannot be used .*; give another"):
            show_demo("digits", port=port, runs=runs)
    with pytest.raises(ConfigError, match="port 70000 of"):
        show_demo("digits", port=70_000, runs=runs)
    os.remove(gradio / "python")
    with pytest.raises(ConfigError, match=r"the demo needs gradio, .* make it with \./scripts/install-demo"):
        show_demo("digits", port=free_port(), runs=runs)
