"""`python -m benchmarks.demo`: `trainer demo` with the real Gradio, and what it leaves behind."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT
from tests.cli.test_silence import folder, in_isolation  # noqa: F401
from trainer.run._demo import ENVIRONMENT

pytestmark = pytest.mark.slow

if not (ROOT / ENVIRONMENT).exists() and not os.environ.get("CI"):
    pytest.skip("there is no Gradio here: ./scripts/install-demo brings it", allow_module_level=True)


def test_the_demo_answers_leaves_the_home_empty_and_looks_up_no_name(
    folder: Path,  # noqa: F811
    tmp_path: Path,
) -> None:
    measure = [sys.executable, "-m", "benchmarks.demo", "--pictures", "2", "--json"]
    asked, (said,) = in_isolation(tmp_path / "home", folder, measure)

    assert asked == []
    assert [str(path) for path in (tmp_path / "home").rglob("*")] == []
    figures = json.loads(said)
    assert figures["first_answer_seconds"] > 0
    assert len(figures["answer_seconds"]) == 2
