"""notebooks/explore.ipynb, executed as its readers do: against a real store, and with a bundle alone."""

from __future__ import annotations

import ast
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from tests.cli.conftest import ROOT, SETTINGS, command

NOTEBOOK = ROOT / "notebooks" / "explore.ipynb"


def cells() -> list[Any]:
    return list(nbformat.read(NOTEBOOK, as_version=4).cells)


def test_it_is_kept_without_outputs() -> None:
    code = [cell for cell in cells() if cell.cell_type == "code"]

    assert [cell.outputs for cell in code] == [[]] * len(code)
    assert [cell.execution_count for cell in code] == [None] * len(code)


def test_its_first_cell_needs_nothing_and_installs_the_locked_client_in_colab_only() -> None:
    first = next(cell.source for cell in cells() if cell.cell_type == "code")
    imported = {
        alias.name
        for node in ast.walk(ast.parse(first))
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    (version,) = re.findall(r'"mlflow-skinny==([\d.]+)"', (ROOT / "pyproject.toml").read_text())

    assert imported <= sys.stdlib_module_names
    assert f"pip install --quiet mlflow-skinny=={version} onnxruntime" in first
    assert first.index("if IN_COLAB") < first.index("pip install")


@pytest.fixture(scope="module")
def trained(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished run of ResNet-18 in its store."""
    folder = tmp_path_factory.mktemp("explored")
    recipe = ["digits", *SETTINGS, "--set", "model=resnet18"]
    process = command("train", *recipe, "--data", photos, "--device", "cpu", "--no-export", folder=folder)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return folder


def executed(folder: Path, monkeypatch: pytest.MonkeyPatch, **environment: str) -> tuple[str, int]:
    """What the notebook prints when it is run in `folder`, and how many pictures it draws."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for name, value in {
        "PYTHONPATH": str(ROOT),
        "HOME": str(folder / "home"),
        "IPYTHONDIR": str(folder / "home" / "ipython"),
        "OMP_NUM_THREADS": "1",
        **environment,
    }.items():
        monkeypatch.setenv(name, value)
    (folder / "home").mkdir()
    shutil.copy(NOTEBOOK, folder)
    notebook = nbformat.read(folder / NOTEBOOK.name, as_version=4)
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(folder)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    text = "".join(
        output.text for output in outputs if output.output_type == "stream" and output.name == "stdout"
    )
    return text, sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the kernel's own, of sockets and loops
def test_it_finds_the_best_run_loads_its_model_and_draws(
    trained: Path, photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    text, pictures = executed(trained, monkeypatch, DATA=str(photos))

    assert re.search(r"digits-\w{10} +top-1 +\d", text), text
    assert "export/cats-and-dogs-1: resnet18, 2 classes, top-1 " in text
    assert re.search(r"\d of 9 right", text)
    assert pictures == 3

    (trained / "alone").mkdir()
    bundle = str(trained / "export" / "cats-and-dogs-1")
    text, pictures = executed(trained / "alone", monkeypatch, BUNDLE=bundle, DATA="nowhere")
    assert "MLflow: none, only the bundle is looked at" in text
    assert "resnet18, 2 classes" in text
    assert "there are no images in" in text
    assert pictures == 1
