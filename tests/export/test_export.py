"""A bundle says what its model says, or there is no bundle."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from tests.export.conftest import CLASSES
from trainer.errors import ExportError
from trainer.export import Bundle, export, load_bundle, to_input, to_onnx
from trainer.model import build, rebuild
from trainer.tracking import LoadedModel


def test_onnx_runtime_answers_like_the_registered_model_at_any_batch(
    bundle: Bundle, model: LoadedModel
) -> None:
    images = torch.randn(9, 3, 32, 32)
    loaded = load_bundle(bundle.folder)
    network = rebuild(model.info.architecture, len(CLASSES), model.state_dict)

    for batch in (1, 2, 9):
        with torch.inference_mode():
            expected = network(images[:batch]).softmax(dim=1)
        answers = torch.from_numpy(loaded(images[:batch].numpy()))
        torch.testing.assert_close(answers, expected, rtol=0, atol=1e-5)
    assert expected.std(dim=0).max() > 1e-3  # the photos can be told apart
    assert bundle.max_difference <= 1e-5
    assert (loaded.classes, loaded.preprocess["val_size"]) == (CLASSES, 32)


def test_the_model_is_one_file_of_opset_17_with_the_names_jetson_inference_uses(bundle: Bundle) -> None:
    model = onnx.load(bundle.folder / "model.onnx", load_external_data=False)

    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    (given,), (answer,) = model.graph.input, model.graph.output
    assert (given.name, answer.name) == ("input_0", "output_0")
    sizes = [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim]
    assert sizes == ["N", 3, 32, 32]
    assert model.graph.node[-1].op_type == "Softmax"
    known = {"Conv", "Relu", "MaxPool", "Add", "GlobalAveragePool", "Flatten", "Gemm", "Softmax"}
    assert {node.op_type for node in model.graph.node} <= known


def test_resnet_50_d_answers_alike_in_onnx_also_where_its_pooling_meets_an_odd_side(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = build("resnet50d", 7)
    for layer in network.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # torch: None is the plain mean
    with torch.no_grad():
        network(torch.randn(8, 3, 72, 72))
    to_onnx(network.eval(), 72, tmp_path / "model.onnx")
    images = torch.randn(2, 3, 72, 72)
    with torch.inference_mode():
        expected = network.eval()(images).softmax(dim=1)
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    (answers,) = session.run(None, {"input_0": images.numpy()})

    torch.testing.assert_close(torch.from_numpy(answers), expected, rtol=0, atol=1e-4)
    operators = {node.op_type for node in onnx.load(tmp_path / "model.onnx").graph.node}
    known = {
        "Conv",
        "Relu",
        "MaxPool",
        "AveragePool",
        "Add",
        "GlobalAveragePool",
        "Flatten",
        "Gemm",
        "Softmax",
    }
    assert operators <= known | {"Identity"}


def test_the_golden_answers_can_be_made_again_from_the_bundle_alone(bundle: Bundle) -> None:
    how = json.loads((bundle.folder / "preprocess.json").read_text())
    expected = json.loads((bundle.folder / "golden" / "expected.json").read_text())
    labels = (bundle.folder / "labels.txt").read_text().splitlines()
    inputs = np.stack([to_input((bundle.folder / one["photo"]).read_bytes(), how) for one in expected])

    np.testing.assert_array_equal(inputs, np.load(bundle.folder / "golden" / "inputs.npy"))
    answers = load_bundle(bundle.folder)(inputs)
    np.testing.assert_allclose(
        answers, np.load(bundle.folder / "golden" / "probabilities.npy"), rtol=0, atol=1e-4
    )
    assert [one["top5"][0]["class"] for one in expected] == [labels[best] for best in answers.argmax(axis=1)]
    assert [one["label"] for one in expected] == ["cat", "dog", "eel"]
    assert f"models:/resnet50-photos/{how['model']['version']}" == how["model"]["source"] == bundle.source


def test_a_model_that_onnx_answers_otherwise_for_is_refused_and_leaves_nothing(
    model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def doubled(network: torch.nn.Module, size: int, path: Path) -> None:
        head = network.get_submodule("fc")
        assert isinstance(head, torch.nn.Linear)
        head.weight.data *= 2
        to_onnx(network, size, path)

    monkeypatch.setattr("trainer.export._forms.to_onnx", doubled)
    with pytest.raises(ExportError, match="answers otherwise than the model: a probability differs by"):
        export(model, tmp_path / "out")

    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused(model: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")

    for out, sentence in ((tmp_path / "full", "is not empty"), (tmp_path / "full" / "mine", "is a file")):
        with pytest.raises(ExportError, match=sentence):
            export(model, out)
    assert (tmp_path / "full" / "mine").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_refused(model: LoadedModel, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ExportError, match="cannot be written: Not a directory"):
        export(model, tmp_path / "file" / "out")


def test_an_empty_folder_is_filled_and_what_a_killed_export_left_is_cleared(
    light: LoadedModel, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "model.onnx").write_bytes(b"half")

    export(light, tmp_path / "out")

    load_bundle(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_the_current_folder_is_filled_and_stays_the_same_folder(
    light: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a mount point would: neither can be replaced."""
    monkeypatch.chdir(tmp_path)
    inode = tmp_path.stat().st_ino
    (tmp_path / ".partial").mkdir()
    (tmp_path / ".partial" / "model.onnx").write_bytes(b"half")

    bundle = export(light, Path())

    assert (tmp_path.stat().st_ino, bundle.folder) == (inode, Path())
    load_bundle(tmp_path)
    assert not (tmp_path / ".partial").exists()


def test_a_folder_that_was_empty_is_empty_after_a_failure(light: LoadedModel, tmp_path: Path) -> None:
    torn = replace(light, samples=(replace(light.samples[0], jpeg=b"no image"),))

    with pytest.raises(ExportError, match=r"0\.JPEG .*cannot be decoded"):
        export(torn, tmp_path)

    assert list(tmp_path.iterdir()) == []


NAMES = r"""
import sys
from dataclasses import replace
from pathlib import Path
from tests.export.conftest import ARCHITECTURE, PREPROCESS, network, photo
from trainer.export import export, load_bundle
from trainer.tracking import LoadedModel, ModelInfo, Sample

classes = ("\u043a\u043e\u0442", "caf\udce9", "a\u2028b", "\u732b", "dog", "")
info = ModelInfo(ARCHITECTURE, tuple("abcdef"), classes, PREPROCESS, "photos", 0.5, 1.0, dataset_digest="d")
samples = (Sample("0.JPEG", photo(1), 0),)
model = LoadedModel(info, samples, "caf\udce9 \u043a", None, dict(network().state_dict()))
assert load_bundle(export(model, Path(sys.argv[1])).folder).classes == classes
"""


@pytest.mark.slow
def test_names_in_any_script_and_bytes_that_are_no_text_do_not_depend_on_the_locale(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "warn_default_encoding", "-c", NAMES, tmp_path / "out"],
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    ours = [line for line in done.stderr.splitlines() if "EncodingWarning" in line and "/trainer/" in line]
    assert ours == []
    assert b"caf\xe9\n" in (tmp_path / "out" / "labels.txt").read_bytes()
    assert b"sha256sum" in (tmp_path / "out" / "README.txt").read_bytes()


def test_a_model_that_was_never_registered_is_exported_with_its_path(
    light: LoadedModel, tmp_path: Path
) -> None:
    unknown = replace(light.info, top1=float("nan"), top5=float("nan"))
    checkpoint = replace(light, info=unknown, source="runs/r/checkpoints/step-8.pt", registered=None)

    bundle = export(checkpoint, tmp_path / "out")

    origin = json.loads((bundle.folder / "preprocess.json").read_text())["model"]
    assert (origin["source"], origin["name"], origin["top1"]) == (checkpoint.source, None, None)
    readme = (bundle.folder / "README.txt").read_text()
    assert readme.startswith("runs/r/checkpoints/step-8.pt, for NVIDIA Jetson\n=====")
    assert "not evaluated yet" in readme
    assert "not registered in MLflow" in readme


def test_the_readme_names_version_accuracy_and_run(bundle: Bundle, model: LoadedModel) -> None:
    readme = (bundle.folder / "README.txt").read_text()

    assert model.registered is not None
    assert readme.startswith(f"resnet50-photos version {model.registered.version}, for NVIDIA Jetson\n=====")
    assert "top-1 50.00%, top-5 100.00% on the validation set" in readme
    assert f"MLflow run {model.registered.run_id}" in readme
    assert "input_0   float32, N x 3 x 32 x 32, RGB" in readme


def test_photos_and_classes_of_any_name_are_golden_under_a_plain_one(
    light: LoadedModel, tmp_path: Path
) -> None:
    names = ["a.JPEG", "a.JPEG", "img #1\nx"]
    samples = tuple(replace(one, name=name) for one, name in zip(light.samples, names, strict=True))
    classes = ("two\nlines", "caf\udce9", "", "d", "e", "f")

    bundle = export(
        replace(light, samples=samples, info=replace(light.info, classes=classes)), tmp_path / "out"
    )

    expected = json.loads((bundle.folder / "golden" / "expected.json").read_text())
    assert [(one["photo"], one["name"]) for one in expected] == list(
        zip(["golden/0.jpeg", "golden/1.jpeg", "golden/2"], names, strict=True)
    )
    assert load_bundle(bundle.folder).classes == ("two lines", "caf\udce9", "", "d", "e", "f")


def test_a_model_without_samples_is_refused(model: LoadedModel, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="has no sample images to compare with"):
        export(replace(model, samples=()), tmp_path / "out")

    assert list(tmp_path.iterdir()) == []
