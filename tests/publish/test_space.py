"""The folder of a Space: the demo with all that it needs, and examples that may be shown."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.publish.conftest import loaded, origin
from trainer.export import load_bundle
from trainer.publish import SPACE_FILES, Publication, write_model_folder, write_space_folder
from trainer.publish._space import _packages
from trainer.sealed import check_seal
from trainer.tracking import LoadedModel

WNIDS = tuple(f"n0144076{index}" for index in range(10))


def space_of(model: LoadedModel, folder: Path, *, photos: bool) -> Path:
    publication = Publication(
        model=model, origin=origin(), repo="ana/net", space="ana/demo", licence=None, photos=photos
    )
    for name in ("model", "space"):
        (folder / name).mkdir()
    write_model_folder(folder / "model", publication)
    write_space_folder(folder / "space", publication, folder / "model" / "bundle")
    return folder / "space"


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_it_is_the_demo_beside_the_bundle(model: LoadedModel, tmp_path: Path) -> None:
    space = space_of(model, tmp_path, photos=True)
    front = yaml.safe_load((space / "README.md").read_text().split("---\n")[1])

    assert {"README.md", "app.py", "requirements.txt", "SHA256SUMS", "bundle/model.onnx"} <= files(space)
    assert all(
        any(file == one or (one.endswith("/") and file.startswith(one)) for one in SPACE_FILES)
        for file in files(space)
    )
    check_seal(space, required=("app.py",))
    assert (front["sdk"], front["app_file"], front["models"]) == ("gradio", "app.py", ["ana/net"])
    assert front["sdk_version"].count(".") == 2
    packages = (space / "requirements.txt").read_text()
    assert "onnxruntime" in packages
    assert "gradio" not in packages
    code = (
        "import app, json, sys; bundle = app.find_bundle(app.Path('bundle')); model = app.load(bundle)\n"
        "print(json.dumps([app.classify(model, one).top for one in app.examples(bundle)]))\n"
        "assert not {'trainer', 'torch'} & set(sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=space, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    expected = json.loads((space / "bundle" / "golden" / "expected.json").read_text())
    assert [next(iter(top)) for top in json.loads(done.stdout)] == [
        one["top5"][0]["class"] for one in expected
    ]


def test_the_examples_of_imagenet_are_photos_that_may_be_shown(tmp_path: Path) -> None:
    space = space_of(loaded(class_ids=WNIDS), tmp_path, photos=False)

    assert {file for file in files(space) if "golden" in file} == {
        "bundle/golden/china.jpg",
        "bundle/golden/flower.jpg",
    }
    assert "Creative Commons Attribution 2.0" in (space / "README.md").read_text()
    assert not [file for file in files(tmp_path / "model") if "golden" in file]
    for bundle in (space / "bundle", tmp_path / "model" / "bundle"):
        check_seal(bundle, required=("model.onnx",))
        load_bundle(bundle)


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("# why\ngradio>=6.31,<7\nnumpy>=2\n", ("6.31.0", ["numpy>=2"])),
        ("numpy>=2\ngradio >= 6.31.2", ("6.31.2", ["numpy>=2"])),
    ],
)
def test_the_space_brings_the_oldest_gradio_that_will_do(text: str, answer: tuple[str, list[str]]) -> None:
    assert _packages(text) == answer
