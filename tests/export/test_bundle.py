"""A bundle is whole or refused, and runs with numpy, Pillow and ONNX Runtime alone."""

from __future__ import annotations

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.export.conftest import CLASSES
from trainer.errors import ExportError
from trainer.export import Bundle, export, is_bundle, load_bundle
from trainer.sealed import seal
from trainer.tracking import LoadedModel


@pytest.fixture
def copy(light_bundle: Bundle, tmp_path: Path) -> Path:
    """A bundle to do harm to."""
    return shutil.copytree(light_bundle.folder, tmp_path / "copy")


def test_sha256sum_accepts_the_bundle(bundle: Bundle) -> None:
    done = subprocess.run(
        ["sha256sum", "--strict", "--check", "SHA256SUMS"], cwd=bundle.folder, capture_output=True, text=True
    )

    files = [file for file in bundle.folder.rglob("*") if file.is_file() and file.name != "SHA256SUMS"]
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == len(files)


@pytest.mark.parametrize("name", ["model.onnx", "labels.txt", "preprocess.json", "golden/inputs.npy"])
def test_a_damaged_or_incomplete_bundle_is_refused(copy: Path, name: str) -> None:
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(ExportError, match=f"damaged: {name} is not what SHA256SUMS says"):
        load_bundle(copy)

    (copy / name).unlink()
    with pytest.raises(ExportError, match=f"damaged: {name} is missing"):
        load_bundle(copy)


def test_a_bundle_whose_sums_leave_the_model_out_is_refused(copy: Path) -> None:
    lines = (copy / "SHA256SUMS").read_text().splitlines(keepends=True)
    (copy / "SHA256SUMS").write_text("".join(line for line in lines if "model.onnx" not in line))

    with pytest.raises(ExportError, match=r"damaged: model\.onnx is missing"):
        load_bundle(copy)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("preprocess.json", "{}"),
        ("preprocess.json", "[]"),
        ("preprocess.json", "hello"),
        ("preprocess.json", '{"val_resize": 40, "val_size": 32, "mean": [0, 0, 0]}'),
        ("labels.txt", "cat\ndog\n"),
        ("labels.txt", ""),
    ],
)
def test_a_sealed_bundle_of_other_facts_is_refused_in_a_sentence(copy: Path, name: str, content: str) -> None:
    (copy / name).write_text(content)
    seal(copy)

    with pytest.raises(ExportError, match=r"is no bundle of this version of trainer: .* export it again"):
        load_bundle(copy)


def test_a_sealed_bundle_of_another_network_is_refused_in_a_sentence(copy: Path) -> None:
    facts = json.loads((copy / "preprocess.json").read_text())
    (copy / "preprocess.json").write_text(json.dumps({**facts, "val_size": 31}))
    seal(copy)
    with pytest.raises(ExportError, match="is not the network that"):
        load_bundle(copy)

    (copy / "model.onnx").write_bytes(pickle.dumps(exec))
    seal(copy)
    with pytest.raises(ExportError, match="cannot be run"):
        load_bundle(copy)


def test_what_users_put_into_a_bundle_does_not_hinder(copy: Path) -> None:
    (copy / "model.engine").write_bytes(b"of TensorRT")

    assert load_bundle(copy).class_ids == CLASSES


def test_a_folder_that_is_no_bundle_is_refused(tmp_path: Path, bundle: Bundle) -> None:
    with pytest.raises(ExportError, match="is no bundle"):
        load_bundle(tmp_path)

    assert not is_bundle(tmp_path)
    assert is_bundle(bundle.folder)


def test_no_probability_is_zero(bundle: Bundle) -> None:
    loud = np.full((1, 3, 32, 32), 1e4, np.float32)

    assert np.isfinite(np.log(load_bundle(bundle.folder)(loud))).all()


def test_a_bundle_is_read_and_run_without_torch_or_mlflow(bundle: Bundle, tmp_path: Path) -> None:
    """On a Jetson there is nothing but what NVIDIA ships and these three."""
    code = (
        "import sys; from importlib.metadata import packages_distributions\n"
        "allowed = {'numpy', 'PIL', 'trainer', 'onnxruntime', 'flatbuffers', 'google', 'packaging'}\n"
        "for name in packages_distributions():\n"
        "    if name not in allowed: sys.modules.setdefault(name, None)\n"
        "import json; from pathlib import Path; import numpy as np\n"
        "from trainer.export import is_bundle, load_bundle, to_input\n"
        "import trainer.export._bundle, trainer.export._preprocess\n"
        "folder = Path(sys.argv[1]); assert is_bundle(folder); bundle = load_bundle(folder)\n"
        "photos = [one['photo'] for one in json.loads((folder / 'golden/expected.json').read_text())]\n"
        "inputs = np.stack([to_input((folder / photo).read_bytes(), bundle.preprocess) for photo in photos])\n"
        "np.save(sys.argv[2], bundle(inputs))\n"
        "assert not {name for name in ('torch', 'mlflow', 'filelock') if sys.modules.get(name)}"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle.folder), str(tmp_path / "answers.npy")],
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    expected = np.load(bundle.folder / "golden" / "probabilities.npy")
    np.testing.assert_allclose(np.load(tmp_path / "answers.npy"), expected, rtol=0, atol=1e-4)


def test_a_bundle_without_photos_was_compared_with_its_model_all_the_same(
    light: LoadedModel, tmp_path: Path
) -> None:
    bundle = export(light, tmp_path / "bundle", with_photos=False)

    assert not (bundle.folder / "golden").exists()
    assert bundle.max_difference is not None
    assert "There is no golden/ here" in (bundle.folder / "README.txt").read_text()
    load_bundle(bundle.folder)
