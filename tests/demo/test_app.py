"""What the demo says of a picture, and of a file that is none; tests/stack/test_demo.py looks at its page."""

from __future__ import annotations

import io
import json
import math
import os
import shutil
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image

from tests.conftest import write_odd_files
from tests.nets import Small
from tests.test_architecture import imported
from trainer.demo import APP, REQUIREMENTS, app
from trainer.export import export, to_input, to_onnx
from trainer.model import build
from trainer.sealed import seal
from trainer.tracking import LoadedModel, ModelInfo, Sample

CLASSES = ("crane", "dog", "eel", "crane", "gnu", "hen")
IDS = ("n1", "n2", "n3", "n4", "n5", "n6")
SIZE = 64
SOURCE = "/home/me/runs/digits-1a2b/checkpoints/step-00000308-0123456789abcdef.pt"
PREPROCESS = {"val_resize": 72, "val_size": SIZE, "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
INFO = ModelInfo(
    "resnet18", IDS, CLASSES, PREPROCESS, "photos", top1=0.5, top5=math.nan, dataset_digest="d" * 64
)


def photo(seed: int, size: tuple[int, int] = (90, 70)) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)


def jpeg(image: Image.Image) -> bytes:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=95)
    return file.getvalue()


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    """A ResNet-18 whose BatchNorm has seen something, so that its answers differ between photos."""
    torch.manual_seed(0)
    model = build("resnet18", len(CLASSES))
    for layer in model.modules():
        if isinstance(layer, torch.nn.BatchNorm2d):
            layer.momentum = None  # torch: None is the plain mean
    with torch.no_grad():
        model(torch.randn(16, 3, SIZE, SIZE))
    return model.eval()


def exported(info: ModelInfo, network: torch.nn.Module, folder: Path) -> Path:
    samples = tuple(Sample(f"{seed}.JPEG", jpeg(photo(seed)), seed) for seed in range(3))
    model = LoadedModel(info, samples, source=SOURCE, registered=None, state_dict=dict(network.state_dict()))
    return export(model, folder / "bundle").folder


@pytest.fixture(scope="module")
def bundle(network: torch.nn.Module, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return exported(INFO, network, tmp_path_factory.mktemp("out"))


@pytest.fixture(scope="module")
def light(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle that is copied in no time."""
    info = replace(INFO, architecture="tests.nets:Small")
    return exported(info, Small(len(CLASSES)), tmp_path_factory.mktemp("light"))


@pytest.fixture(scope="module")
def model(bundle: Path) -> app.Model:
    return app.load(bundle)


def test_the_golden_photos_get_the_golden_inputs_and_answers(model: app.Model, bundle: Path) -> None:
    inputs = np.load(bundle / "golden" / "inputs.npy")
    probabilities = np.load(bundle / "golden" / "probabilities.npy")
    expected = json.loads((bundle / "golden" / "expected.json").read_text())

    assert [Path(path).name for path in app.examples(bundle)] == ["0.jpeg", "1.jpeg", "2.jpeg"]
    for index, path in enumerate(app.examples(bundle)):
        picture, notes = app.read_picture(path)
        image = app.to_input(app.centre(picture, model.described), model.described)
        answer = app.classify(model, path)

        np.testing.assert_array_equal(image, inputs[index])
        first = expected[index]["top5"]
        assert list(answer.top) == [model.labels[one["index"]] for one in first]
        np.testing.assert_allclose(list(answer.top.values()), -np.sort(-probabilities[index])[:5], atol=1e-5)
        assert notes == answer.notes == ()


def test_odd_pictures_get_the_input_of_the_bundles_own_preprocessing(tmp_path: Path) -> None:
    write_odd_files(tmp_path / "odd")
    shades = np.linspace(0, 65_535, 50 * 61).reshape(50, 61).astype(np.uint16)
    Image.fromarray(shades).save(tmp_path / "odd" / "16-bits.png")
    for number, (mode, size) in enumerate([("RGBA", (301, 77)), ("P", (33, 90)), ("LA", (640, 481))]):
        photo(number, size).convert(mode).save(tmp_path / "odd" / f"{mode}.png")
    photo(7, (71, 71)).save(tmp_path / "odd" / "rgb.webp", lossless=True)

    paths = sorted((tmp_path / "odd").iterdir())
    assert len(paths) == 9
    for path in paths:
        picture, _ = app.read_picture(path)
        image = app.to_input(app.centre(picture, PREPROCESS), PREPROCESS)
        np.testing.assert_array_equal(image, to_input(path.read_bytes(), PREPROCESS), err_msg=path.name)


def test_the_map_of_a_class_is_torchs_grad_cam(
    model: app.Model, bundle: Path, network: torch.nn.Module
) -> None:
    image = torch.from_numpy(np.load(bundle / "golden" / "inputs.npy")[:1])
    kept: list[torch.Tensor] = []
    hook = network.layer4.register_forward_hook(lambda module, given, features: kept.append(features))
    logits = network(image)
    hook.remove()
    assert model.head
    (_, features) = model.session.run(["output_0", model.head.features], {"input_0": image.numpy()})

    for index in range(len(CLASSES)):
        (slope,) = torch.autograd.grad(logits[0, index], kept[0], retain_graph=True)
        # The gradient's mean over the places weighs a channel; here it is the weight over the number of places.
        weighed = (slope.mean(dim=(2, 3), keepdim=True) * kept[0]).sum(dim=1, keepdim=True).relu()
        wanted = torch.nn.functional.interpolate(weighed, (SIZE, SIZE), mode="bilinear", align_corners=False)
        found = app.class_map(model.head, features[0], index, SIZE)
        places = features.shape[2] * features.shape[3]

        assert places == 4
        np.testing.assert_allclose(found / places, wanted[0, 0].detach().numpy(), atol=1e-5)
    assert found.max() > 0


def test_the_view_is_the_part_that_the_network_saw_with_the_map_over_it(
    model: app.Model, bundle: Path
) -> None:
    with_map = app.classify(model, app.examples(bundle)[0])
    without = app.classify(replace(model, head=None), app.examples(bundle)[0])

    assert with_map.view.size == without.view.size == (448, 448)
    assert with_map.top == without.top
    assert with_map.view != without.view
    assert "no map" not in app.facts(model)


def opened(network: torch.nn.Module, size: int, folder: Path, bundle: Path) -> app.Model:
    """The bundle with another network, of another input size, in it."""
    shutil.copytree(bundle, folder)
    (folder / "SHA256SUMS").unlink()
    to_onnx(network, size, folder / "model.onnx")
    described = json.loads((folder / "preprocess.json").read_text()) | {"val_size": size}
    (folder / "preprocess.json").write_text(json.dumps(described))
    seal(folder)
    return app.load(folder)


def test_a_network_without_a_map_answers_all_the_same_and_says_why(
    network: torch.nn.Module, bundle: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, len(CLASSES))).eval()
    without = {
        "of 32 x 32 pixels the last layer makes a single place": opened(network, 32, tmp_path / "1", bundle),
        "does not end in a pooling and one linear layer": opened(flat, 8, tmp_path / "2", bundle),
    }
    monkeypatch.setitem(sys.modules, "onnx", None)
    without["the package onnx is not installed"] = app.load(bundle)

    for why, model in without.items():
        assert f"no map of where a class was found: {why}" in app.facts(model).replace(
            "the network does", "does"
        )
        assert len(app.classify(model, app.examples(bundle)[0]).top) == 5


def test_classes_of_one_name_are_told_apart(model: app.Model) -> None:
    assert model.labels == ("crane (n1)", "dog", "eel", "crane (n4)", "gnu", "hen")


def test_the_page_says_what_the_model_is_and_takes_no_name_for_html(model: app.Model) -> None:
    told = model.described["model"]
    assert "<b>digits-1a2b step-00000308</b>: not measured on its validation images" in app.facts(model)
    assert "not registered in MLflow" in app.facts(model)

    elsewhere = model.described | {"model": told | {"source": "models:/net/3"}}
    assert "<b>models:/net/3</b>" in app.facts(replace(model, described=elsewhere))
    registered = told | {"name": "<i>", "version": 3, "run_id": "abc", "top1": 0.7531, "top5": 0.92}
    shown = app.facts(replace(model, described=model.described | {"model": registered}))
    assert "<b>&lt;i&gt; version 3</b>: top-1 75.31%, top-5 92.00%" in shown
    assert "MLflow run abc" in shown
    assert "/home/me" not in app.facts(model) + shown


def png(width: int, height: int) -> bytes:
    """A black PNG of one bit a pixel."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0)
    rows = zlib.compress((b"\0" + bytes((width + 7) // 8)) * height, 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("text.jpg", lambda: b"no picture at all\n", "is no picture that can be read: use JPEG"),
        ("empty.jpg", lambda: b"", "is no picture that can be read"),
        (
            "drawing.svg",
            lambda: b"<svg xmlns='http://www.w3.org/2000/svg'/>",
            "is no picture that can be read",
        ),
        ("page.jpg", lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "is no picture"),
        ("cut.jpg", lambda: jpeg(photo(0, (900, 700)))[:2000], "is damaged or its file ends too early"),
        ("large.png", lambda: png(6000, 6000), "has 6000 x 6000 pixels; 25 million are allowed"),
        ("huge.png", lambda: png(20_000, 20_000), "has too many pixels; 25 million are allowed"),
        ("narrow.png", lambda: png(1, 12_000), "is too long and narrow"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_a_sentence(
    model: app.Model, tmp_path: Path, name: str, make: Callable[[], bytes], says: str
) -> None:
    (tmp_path / name).write_bytes(make())

    with pytest.raises(app.Unusable, match=says):
        app.classify(model, tmp_path / name)


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "avif", "gif", "bmp"])
def test_pictures_of_all_formats_that_are_named_are_read(tmp_path: Path, ending: str) -> None:
    photo(0).save(tmp_path / f"photo.{ending}")

    assert app.read_picture(tmp_path / f"photo.{ending}")[0].size == (90, 70)


def test_what_a_picture_has_besides_pixels_is_said(model: app.Model, tmp_path: Path) -> None:
    turned = Image.Exif()
    turned[app.ORIENTATION] = 6
    photo(0).save(tmp_path / "turned.jpg", exif=turned, quality=95)
    photo(0).save(tmp_path / "upright.jpg", quality=95)
    photo(1).save(tmp_path / "moving.gif", save_all=True, append_images=[photo(2)])

    answers = {
        name: app.classify(model, tmp_path / name) for name in ("turned.jpg", "upright.jpg", "moving.gif")
    }

    assert "the network saw it lying" in answers["turned.jpg"].notes[0]
    assert answers["turned.jpg"].top == answers["upright.jpg"].top, "as training, which ignores EXIF"
    assert answers["moving.gif"].notes == ("Of an animation, the network saw the first picture.",)
    assert "<p>Of an animation" in app.said(answers["moving.gif"])


def test_of_several_bundles_the_newest_is_shown(light: Path, tmp_path: Path) -> None:
    with pytest.raises(
        app.Unusable, match=r"no exported bundle in .* yet; make one with `docker compose run"
    ):
        app.find_bundle(tmp_path)

    for age, name in enumerate(["b-2", "a-1", ".c-3.partial"]):
        shutil.copytree(light, tmp_path / name)
        os.utime(tmp_path / name / "SHA256SUMS", (1000 + age, 1000 + age))
    (tmp_path / "half").mkdir()
    shutil.copy(light / "preprocess.json", tmp_path / "half")

    assert app.find_bundle(tmp_path) == tmp_path / "a-1"
    assert app.find_bundle(tmp_path / "b-2") == tmp_path / "b-2"


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def resealed(change: Callable[[Path], object]) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        change(folder)
        (folder / "SHA256SUMS").unlink()
        seal(folder)

    return damage


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda folder: flip(folder / "model.onnx"), "model.onnx is not what SHA256SUMS says"),
        (lambda folder: (folder / "SHA256SUMS").unlink(), "SHA256SUMS"),
        (lambda folder: (folder / "labels.txt").unlink(), "labels.txt"),
        (resealed(lambda folder: (folder / "labels.txt").write_text("one\n")), "1 lines for 6 classes"),
        (resealed(lambda folder: (folder / "preprocess.json").write_text("[]")), "is no bundle"),
        (
            resealed(lambda folder: (folder / "model.onnx").write_bytes(b"no network")),
            "model.onnx cannot be run",
        ),
    ],
)
def test_a_bundle_that_is_none_is_refused_in_a_sentence(
    light: Path, tmp_path: Path, damage: Callable[[Path], None], says: str
) -> None:
    shutil.copytree(light, tmp_path / "bundle")
    damage(tmp_path / "bundle")
    done = subprocess.run(
        [sys.executable, "-P", APP, tmp_path / "bundle"], capture_output=True, text=True, cwd=tmp_path
    )

    assert done.returncode == 2
    assert done.stderr.startswith(f"demo: {tmp_path / 'bundle'} is no bundle, incomplete or damaged: ")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_the_file_runs_without_the_package_and_tells_nobody() -> None:
    code = (
        f"import os, runpy, sys; runpy.run_path({str(APP)!r}); "
        "assert not {'trainer', 'gradio', 'onnx', 'onnxruntime', 'torch'} & set(sys.modules); "
        "print(*(os.environ[name] for name in ('ORT_DISABLE_TELEMETRY', 'GRADIO_ANALYTICS_ENABLED', 'DO_NOT_TRACK')))"
    )
    clean = {"PATH": os.environ["PATH"]}
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, env=clean)

    assert done.stdout == "1 False 1\n", done.stderr
    assert not [name for name in imported(APP) if name.split(".")[0] == "trainer"]


def test_what_the_file_imports_is_what_its_requirements_list() -> None:
    listed = {line.partition(">")[0] for line in REQUIREMENTS.read_text().splitlines() if line[:1] != "#"}
    others = {name.split(".")[0] for name in imported(APP)} - set(sys.stdlib_module_names)

    assert listed == (others - {"PIL", "starlette"}) | {"pillow"}  # gradio is made of starlette


def heat(found: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.asarray(app._heated(Image.new("RGB", (2, 1), "grey"), found))


def test_where_more_was_found_the_map_is_brighter() -> None:
    dark, bright = heat(np.array([[0.0, 3.0]], np.float32)).sum(axis=-1)[0]

    assert bright > 2 * dark
    assert heat(np.zeros((1, 2), np.float32)).sum(axis=-1)[0].tolist() == [dark, dark], "nothing was found"
