"""A bundle says what the registered model says, or there is no bundle."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

from trainer.errors import ExportError, TrackingError
from trainer.export import Bundle, export, is_bundle, load_bundle, to_input
from trainer.model import build
from trainer.tracking import DatasetInfo, Journal, ModelInfo, Registered, Sample, load, register, save_model

CLASSES = ("cat", "dog", "eel", "fox", "gnu", "hen")
IMAGES = {"val_resize": 40, "val_size": 32, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}


def photo(seed: int, width: int = 90, height: int = 70) -> bytes:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC).save(file, "JPEG", quality=95)
    return file.getvalue()


def network() -> torch.nn.Module:
    """A ResNet-50 whose BatchNorm has seen something, so that its answers differ between photos."""
    torch.manual_seed(0)
    model = build("resnet50", len(CLASSES))
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # type: ignore[assignment]  # torch: None is the plain mean
    with torch.no_grad():
        model(torch.randn(16, 3, 32, 32))
    return model.eval()


def register_it(runs: Path, model: torch.nn.Module, *, name: str = "resnet50-photos") -> Registered:
    journal = Journal(runs / name)
    journal.start(name=name, experiment="photos", params={}, tags={}, dataset=DatasetInfo("p", "d", "/d"))
    journal.finish("finished")
    facts = ModelInfo("resnet50", CLASSES, IMAGES, "photos", top1=0.5, top5=1.0, dataset_digest="d" * 64)
    samples = [Sample(f"{seed}.JPEG", photo(seed), seed) for seed in range(3)]
    save_model(runs / name, model, facts, samples, lambda _: (0.5, 1.0), name=name, images=40)
    return register(runs / name)


@pytest.fixture(scope="session")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with one registered ResNet-50."""
    folder = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        register_it(folder, network())
    return folder


@pytest.fixture(autouse=True)
def no_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="session")
def bundle(runs: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return export("models:/resnet50-photos@candidate", tmp_path_factory.mktemp("out") / "bundle", runs=runs)


@pytest.fixture
def copy(bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle to do harm to."""
    return shutil.copytree(bundle.folder, tmp_path / "copy")


def test_onnx_runtime_answers_like_the_registered_resnet50_at_any_batch(bundle: Bundle, runs: Path) -> None:
    model, images = load("models:/resnet50-photos@candidate", runs=runs).module, torch.randn(9, 3, 32, 32)
    loaded = load_bundle(bundle.folder)

    for batch in (1, 2, 9):
        with torch.inference_mode():
            expected = model(images[:batch]).softmax(dim=1)
        torch.testing.assert_close(loaded(images[:batch]), expected, rtol=0, atol=1e-4)
    assert expected.std(dim=0).max() > 1e-3  # the photos can be told apart
    assert bundle.max_difference <= 1e-4
    assert (loaded.classes, loaded.images["val_size"]) == (CLASSES, 32)


def test_the_model_is_one_file_of_opset_17_with_the_names_jetson_inference_uses(bundle: Bundle) -> None:
    model = onnx.load(bundle.folder / "model.onnx", load_external_data=False)

    assert [(opset.domain, opset.version) for opset in model.opset_import] == [("", 17)]
    assert not any(tensor.external_data for tensor in model.graph.initializer)
    (given,), (answer,) = model.graph.input, model.graph.output
    assert (given.name, answer.name) == ("input_0", "output_0")
    sizes = [d.dim_param or d.dim_value for d in given.type.tensor_type.shape.dim]
    assert sizes == ["N", 3, 32, 32]
    assert model.graph.node[-1].op_type == "Softmax"
    assert {node.op_type for node in model.graph.node} <= {
        "Conv", "Relu", "MaxPool", "Add", "GlobalAveragePool", "Flatten", "Gemm", "Softmax",
    }  # fmt: skip


def test_the_golden_answers_can_be_made_again_from_the_bundle_alone(bundle: Bundle) -> None:
    how = json.loads((bundle.folder / "preprocess.json").read_text())
    expected = json.loads((bundle.folder / "golden" / "expected.json").read_text())
    labels = (bundle.folder / "labels.txt").read_text().splitlines()
    inputs = np.stack([to_input((bundle.folder / one["photo"]).read_bytes(), how) for one in expected])

    np.testing.assert_array_equal(inputs, np.load(bundle.folder / "golden" / "inputs.npy"))
    answers = load_bundle(bundle.folder)(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(
        answers, np.load(bundle.folder / "golden" / "probabilities.npy"), rtol=0, atol=1e-4
    )
    assert [one["top5"][0]["class"] for one in expected] == [labels[best] for best in answers.argmax(axis=1)]
    assert [one["label"] for one in expected] == ["cat", "dog", "eel"]
    assert how["model"]["version"] == bundle.source.version


def test_sha256sum_accepts_the_bundle(bundle: Bundle) -> None:
    done = subprocess.run(
        ["sha256sum", "--strict", "--check", "SHA256SUMS"], cwd=bundle.folder, capture_output=True, text=True
    )

    files = [file for file in bundle.folder.rglob("*") if file.is_file() and file.name != "SHA256SUMS"]
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(files)


@pytest.mark.parametrize(("width", "height"), [(90, 70), (70, 90), (41, 40), (20, 30), (300, 200)])
def test_pixels_are_those_of_torchvision(width: int, height: int) -> None:
    data = photo(7, width, height)
    torchvision_does = v2.Compose([
        v2.Resize(40, interpolation=v2.InterpolationMode.BILINEAR), v2.CenterCrop(32), v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGES["mean"], IMAGES["std"]),
    ])  # fmt: skip

    ours = to_input(data, IMAGES)

    # It rounds the longer side down and we to the nearest: up to half a pixel apart.
    theirs = torchvision_does(Image.open(io.BytesIO(data)).convert("RGB")).numpy()
    assert (ours.shape, ours.dtype) == ((3, 32, 32), np.float32)
    assert np.abs(ours - theirs).mean() < 0.05
    if width * 40 % min(width, height) == height * 40 % min(width, height) == 0:
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


class Doubled(torch.nn.Module):
    """A network that its architecture's name does not tell all about."""

    def __init__(self) -> None:
        super().__init__()
        vars(self)["_modules"] = network()._modules

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        x = images
        for name, module in self.named_children():
            x = module(x.flatten(1) if name == "fc" else x)
        return 2 * x


def test_a_model_that_onnx_answers_otherwise_for_is_refused_and_leaves_nothing(
    runs: Path, tmp_path: Path
) -> None:
    doubled = register_it(runs, Doubled(), name="doubled")

    with pytest.raises(ExportError, match="answers otherwise than the model: a probability differs by"):
        export(doubled.uri, tmp_path / "out", runs=runs)

    assert list(tmp_path.iterdir()) == []


def test_a_model_that_does_not_exist_is_refused_and_leaves_nothing(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(TrackingError, match="there is no registered model nobody"):
        export("models:/nobody@candidate", tmp_path / "out", runs=runs)

    assert list(tmp_path.iterdir()) == []


def test_a_folder_in_use_is_refused(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine").write_text("mine")

    for out, sentence in ((tmp_path / "full", "is not empty"), (tmp_path / "full" / "mine", "is a file")):
        with pytest.raises(ExportError, match=sentence):
            export("models:/resnet50-photos@candidate", out, runs=runs)
    assert (tmp_path / "full" / "mine").read_text() == "mine"


def test_a_place_that_cannot_be_written_is_refused(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")

    with pytest.raises(ExportError, match="cannot be written: Not a directory"):
        export("models:/resnet50-photos@candidate", tmp_path / "file" / "out", runs=runs)


def test_an_empty_folder_is_filled_and_what_a_killed_export_left_is_cleared(
    runs: Path, tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / ".out.partial").mkdir()
    (tmp_path / ".out.partial" / "model.onnx").write_bytes(b"half")

    export("models:/resnet50-photos@candidate", tmp_path / "out", runs=runs)

    load_bundle(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("name", ["model.onnx", "labels.txt", "preprocess.json", "golden/inputs.npy"])
def test_a_damaged_or_incomplete_bundle_is_refused(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(ExportError, match=f"is damaged: {name}"):
        load_bundle(copy)

    (copy / name).unlink()
    with pytest.raises(ExportError, match=f"is incomplete: {name} is missing"):
        load_bundle(copy)


def test_a_bundle_whose_sums_leave_the_model_out_is_refused(copy: Path) -> None:
    lines = (copy / "SHA256SUMS").read_text().splitlines(keepends=True)
    (copy / "SHA256SUMS").write_text("".join(line for line in lines if "model.onnx" not in line))

    with pytest.raises(ExportError, match=r"incomplete: model\.onnx"):
        load_bundle(copy)


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    with pytest.raises(ExportError, match="is not a bundle"):
        load_bundle(tmp_path)

    assert not is_bundle(tmp_path)
    assert is_bundle(bundle.folder)


def test_no_probability_is_zero(bundle: Bundle) -> None:
    loud = 1e4 * torch.ones(1, 3, 32, 32)

    assert load_bundle(bundle.folder)(loud).log().isfinite().all()
