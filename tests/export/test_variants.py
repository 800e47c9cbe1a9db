"""Each form of the network is measured on the data set, and what is not there is said."""

from __future__ import annotations

import ast
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import trainer.export
from tests.export.networks import warmed
from tests.nets import Small
from trainer.dataset import Dataset
from trainer.errors import ExportError
from trainer.export import Bundle, BundleImages, export, load_bundle, read_variants
from trainer.export._forms import ALLOWED
from trainer.export._preprocess import to_both_inputs
from trainer.tracking import LoadedModel, ModelInfo, Sample

PREPROCESS = {"val_resize": 40, "val_size": 32, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
WAYS = ("validation", "whole_frame")


@pytest.fixture(scope="module")
def both(dataset: Dataset) -> tuple[np.ndarray, np.ndarray]:
    """All validation images in both ways."""
    paths = [dataset.val.path(index) for index in range(len(dataset.val))]
    made = [to_both_inputs(path.read_bytes(), PREPROCESS) for path in paths]
    return np.stack([one for one, _ in made]), np.stack([one for _, one in made])


@pytest.fixture(scope="module")
def network(both: tuple[np.ndarray, np.ndarray]) -> torch.nn.Module:
    """One that is right about some of them."""
    torch.manual_seed(34)  # no two classes are near to each other in any answer
    return warmed(Small(2), torch.from_numpy(both[0]))


@pytest.fixture(scope="module")
def model(network: torch.nn.Module, dataset: Dataset) -> LoadedModel:
    info = ModelInfo(
        "tests.nets:Small",
        dataset.classes,
        dataset.class_names,
        PREPROCESS,
        "photos",
        0.5,
        1.0,
        dataset.digest,
    )
    samples = tuple(
        Sample(f"{index}.JPEG", dataset.val.path(index).read_bytes(), int(dataset.val.labels[index]))
        for index in (0, 5)
    )
    return LoadedModel(info, samples, "models:/small/1", None, dict(network.state_dict()))


@pytest.fixture(scope="module")
def bundle(model: LoadedModel, dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    images = BundleImages(dataset, PREPROCESS)
    out = tmp_path_factory.mktemp("measured") / "bundle"
    return export(model, out, images=images, formats=("torchscript", "pt2"))


def accuracy(network: torch.nn.Module, inputs: np.ndarray, dataset: Dataset) -> float:
    with torch.inference_mode():
        answers = network(torch.from_numpy(inputs)).argmax(dim=1).numpy()
    return float((answers == dataset.val.labels).mean())


def test_top1_is_that_of_all_validation_images_in_both_ways(
    bundle: Bundle, network: torch.nn.Module, both: tuple[np.ndarray, np.ndarray], dataset: Dataset
) -> None:
    found = read_variants(bundle.folder)
    expected = {way: accuracy(network, inputs, dataset) for way, inputs in zip(WAYS, both, strict=True)}

    assert expected["validation"] != expected["whole_frame"]
    assert (found.images, found.of) == (9, 9)
    assert found.pytorch_top1 == pytest.approx(expected)
    assert found.find("model.onnx").top1 == found.find("model_batch1.onnx").top1 == found.pytorch_top1
    assert json.loads((bundle.folder / "preprocess.json").read_text())["ways"] == {
        "validation": {**_any("is", "steps"), "top1": expected["validation"]},
        "whole_frame": {**_any("is", "steps"), "top1": expected["whole_frame"]},
        "measured_on": {"file": "model.onnx", "validation_images": 9, "of": 9, "not_measured": None},
    }


def _any(*names: str) -> dict[str, Any]:
    class Anything:
        def __eq__(self, other: object) -> bool:
            return True

        __hash__ = None  # type: ignore[assignment]

    return dict.fromkeys(names, Anything())


def test_what_jetson_inference_makes_of_a_photo_are_points_of_all_of_it() -> None:
    """As in gpuTensorNormMean of its c/tensorConvert.cu, written out."""
    import io

    from PIL import Image

    pixels = np.random.default_rng(0).integers(0, 256, (45, 70, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    seen = to_both_inputs(file.getvalue(), PREPROCESS)[1]

    for y, x in np.random.default_rng(1).integers(0, 32, (50, 2)):
        pixel = pixels[int(y * np.float32(45 / 32)), int(x * np.float32(70 / 32))] / 255
        np.testing.assert_allclose(
            seen[:, y, x], (pixel - PREPROCESS["mean"]) / PREPROCESS["std"], rtol=1e-5, atol=1e-5
        )


def test_the_forms_agree_with_pytorch_as_far_as_their_precision_goes(bundle: Bundle) -> None:
    found = {one.file: one for one in read_variants(bundle.folder).variants}

    assert list(found) == [
        "model.onnx",
        "model_batch1.onnx",
        "model_fp16.onnx",
        "model_int8.onnx",
        "model.torchscript.pt",
        "model.pt2",
    ]
    allowed = {"fp32": 1e-5, "fp16": 2e-3, "int8": 0.2}
    assert all(one.max_difference <= allowed[one.precision] for one in found.values())
    assert found["model_int8.onnx"].max_difference > found["model_fp16.onnx"].max_difference > 0
    assert all(one.bytes == (bundle.folder / name).stat().st_size for name, one in found.items())
    assert all(found[name].cpu_ms > 0 for name in found if name.endswith(".onnx"))
    assert found["model.pt2"].verified_with == found["model.torchscript.pt"].verified_with
    assert f"torch {torch.__version__}" in found["model.pt2"].verified_with
    load_bundle(bundle.folder)


def test_the_readme_has_the_table(bundle: Bundle) -> None:
    readme = (bundle.folder / "README.txt").read_text()
    found = read_variants(bundle.folder)

    for one in found.variants[:4]:
        (line,) = [line for line in readme.splitlines() if line.startswith(f"{one.file} ")]
        assert f"{one.top1['validation']:.2%}" in line
        assert f"{one.max_difference:.1e}" in line
    assert "Top-1 is of 9 of 9 validation images." in readme


def test_without_a_data_set_there_is_no_int8_and_a_sentence_says_why(
    model: LoadedModel, tmp_path: Path
) -> None:
    bundle = export(model, tmp_path / "bundle", missing="its data set is on the moon")

    assert not (bundle.folder / "model_int8.onnx").exists()
    (sentence,) = bundle.left_out
    assert sentence in (bundle.folder / "README.txt").read_text()
    assert sentence == (
        "model_int8.onnx is left out, and the accuracy of each variant is not known: its data set is on the moon."
    )
    ways = json.loads((bundle.folder / "preprocess.json").read_text())["ways"]
    assert (ways["validation"]["top1"], ways["measured_on"]["not_measured"]) == (None, sentence)
    assert read_variants(bundle.folder).find("model.onnx").top1 is None


def test_what_loses_more_than_a_point_is_left_out(
    model: LoadedModel, dataset: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Calibrated on nothing but grey, whole numbers answer the same for every image."""

    def grey(images: BundleImages, count: int) -> Any:
        yield np.zeros((2, 3, 32, 32), np.float32)

    monkeypatch.setattr(BundleImages, "for_calibration", grey)
    monkeypatch.setattr("trainer.export._forms.MOST_LOST", -0.001)  # of 9 images
    bundle = export(model, tmp_path / "bundle", images=BundleImages(dataset, PREPROCESS), count=5)

    assert sorted(path.name for path in bundle.folder.glob("model*")) == ["model.onnx", "model_batch1.onnx"]
    assert any("model_int8.onnx is left out: it loses" in sentence for sentence in bundle.left_out)
    assert read_variants(bundle.folder).images == 5
    load_bundle(bundle.folder)


def test_a_form_that_every_device_would_refuse_is_left_out(
    model: LoadedModel, dataset: Dataset, tmp_path: Path
) -> None:
    """One channel is so large that INT8 sees no other, and half precision cannot hold it."""
    large = 2.0**30  # a power of two, so that float32 answers as before
    weights = {name: value.clone() for name, value in model.state_dict.items()}
    for name in ("layers.1.weight", "layers.1.bias"):
        weights[name][0] *= large
    weights["layers.3.weight"][:, 0] /= large
    weights["layers.8.weight"] *= 20
    bundle = export(
        replace(model, state_dict=weights), tmp_path / "bundle", images=BundleImages(dataset, PREPROCESS)
    )

    for form, limit in (("model_fp16.onnx", "0.01"), ("model_int8.onnx", "0.25")):
        (sentence,) = (one for one in bundle.left_out if f"{form} is left out" in one)
        assert "on golden images a probability differs by" in sentence
        assert f"{limit} is allowed" in sentence
        assert not (bundle.folder / form).exists()
    load_bundle(bundle.folder)


def test_what_a_bundle_may_hold_is_what_devices_take() -> None:
    source = (Path(trainer.export.__file__).parent / "device" / "verify.py").read_text()
    (allowed,) = re.findall(r"^ALLOWED_ONNX = (.+)$", source, re.MULTILINE)
    on_devices = ast.literal_eval(allowed)

    assert (ALLOWED["fp16"], ALLOWED["int8"]) == (on_devices["fp16"], on_devices["int8"])
    assert ALLOWED["fp32"] <= on_devices["fp32"]


def test_torchs_own_form_that_answers_otherwise_is_refused(
    model: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = torch.jit.load

    def doubled(path: str) -> Any:
        loaded = load(path)
        return lambda images: 2 * loaded(images)

    monkeypatch.setattr("torch.jit.load", doubled)
    with pytest.raises(ExportError, match="the torchscript form of models:/small/1 answers otherwise"):
        export(model, tmp_path / "bundle", formats=("torchscript",))
    assert not list(tmp_path.iterdir())
