"""verify.py passes a sound folder and fails a changed one, also where SHA256SUMS was made anew."""

from __future__ import annotations

import ast
import importlib.util
import io
import os
import re
import shutil
import subprocess
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from tests.conftest import write_odd_files
from tests.export.conftest import CLASSES, PREPROCESS
from tests.export.device.changes import (
    change_json,
    channels_of_the_inputs,
    channels_of_the_network,
    channels_of_the_program,
    channels_of_the_statistics,
    nothing_but_nan,
    one_label,
    one_weight,
    the_mean,
    two_labels,
)
from tests.export.device.conftest import DEVICE, golden, run
from trainer.export import to_input
from trainer.sealed import seal

HERE = Path(__file__).parent


def verify(folder: Path, *arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return run("python3", folder / "verify.py", *arguments, **environment)


def verify_in_this_process(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """The same, without the second that importing takes."""
    spec = importlib.util.spec_from_file_location("verify_of_a_bundle", folder / "verify.py")
    program = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(program)
    said = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(said), redirect_stderr(said):
        patch.setattr("sys.argv", ["verify.py", *map(str, arguments)])
        patch.setattr("sys.dont_write_bytecode", True)
        code = program.main()
    return subprocess.CompletedProcess([], code, said.getvalue())


def test_a_sound_folder_passes_and_says_how_close_and_how_fast(small_bundle: Path) -> None:
    done = verify(small_bundle)

    assert done.returncode == 0, done.stdout
    assert re.search(
        r"^files +passed   \d+ as SHA256SUMS says; its own SHA-256 is [0-9a-f]{64}$", done.stdout, re.M
    )
    assert "3 photos become the golden inputs, largest difference 0 of 255" in done.stdout
    for form in ("model", "model_batch1", "model_fp16", "model_int8"):
        assert re.search(
            rf"^{form}\.onnx +passed +largest difference \d\.\de-\d+ of [\d.]+ allowed; [\d.]+ ms$",
            done.stdout,
            re.M,
        ), done.stdout
    assert done.stdout.splitlines()[-1] == "passed"


def test_the_golden_answers_tell_the_photos_apart(small_bundle: Path) -> None:
    assert golden(small_bundle, "probabilities").std(axis=0).max() > 0.05


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (one_weight, "model.onnx               FAILED   a probability differs by"),
        (one_label, r"labels                   FAILED   line \d of labels.txt is 'wolf'"),
        (two_labels, "labels                   FAILED   line"),
        (
            the_mean,
            "preprocessing            FAILED   preprocess.json makes other inputs .* 0.2.. on average",
        ),
        (channels_of_the_statistics, "preprocessing            FAILED   preprocess.json makes other inputs"),
        (channels_of_the_inputs, "preprocessing            FAILED   preprocess.json makes other inputs"),
        (channels_of_the_network, "model.onnx               FAILED   a probability differs by"),
        (channels_of_the_program, "preprocessing            FAILED   preprocess.json makes other inputs"),
        (nothing_but_nan, "model.onnx               FAILED   a probability differs by inf"),
    ],
)
def test_a_changed_folder_fails_also_with_sums_made_anew(
    copy: Path, change: Callable[[Path], None], says: str
) -> None:
    change(copy)
    seal(copy)
    done = verify_in_this_process(copy, copy / "model.onnx")

    assert done.returncode == 1, done.stdout
    assert "files                    passed" in done.stdout
    assert re.search(says, done.stdout), done.stdout


def test_one_byte_anywhere_is_found_by_the_sums_and_by_the_registrys_digest(copy: Path) -> None:
    """The last bit of a weight changes no answer that could be told from rounding."""
    digest = seal(copy)
    data = bytearray((copy / "model.onnx").read_bytes())
    place = data.find(onnx.load(copy / "model.onnx").graph.initializer[0].raw_data)
    data[place] ^= 1
    (copy / "model.onnx").write_bytes(data)

    assert "model.onnx is not what SHA256SUMS says" in verify_in_this_process(copy, "--sha256", digest).stdout
    seal(copy)
    anew = verify_in_this_process(copy, "--sha256", digest)
    assert anew.returncode == 1
    assert f"not {digest}: this is not what was registered" in anew.stdout


def test_a_label_that_no_golden_photo_has_is_found_by_its_digest_in_preprocess_json(copy: Path) -> None:
    change_json(copy / "golden/expected.json", lambda has: [one["top5"].clear() for one in has])
    seal(copy)
    assert (
        "labels                   passed   6, all compared"
        in verify_in_this_process(copy, copy / "model.onnx").stdout
    )

    one = (copy / "labels.txt").read_text().replace(CLASSES[5], "wolf")
    (copy / "labels.txt").write_text(one)
    seal(copy)
    assert (
        "labels.txt is not the file whose labels_sha256"
        in verify_in_this_process(copy, copy / "model.onnx").stdout
    )


@pytest.mark.slow
def test_without_pillow_it_says_what_was_not_checked(small_bundle: Path, tmp_path: Path) -> None:
    (tmp_path / "PIL.py").write_text("raise ImportError('no Pillow')")
    done = verify(small_bundle, PYTHONPATH=str(tmp_path))

    assert done.returncode == 0
    assert "preprocessing            not checked: Pillow is missing" in done.stdout
    assert done.stdout.splitlines()[-1] == "passed; not checked: preprocessing"


@pytest.mark.slow
@pytest.mark.parametrize("package", ["numpy", "onnxruntime"])
def test_without_anything_to_run_it_with_it_does_not_pass(
    small_bundle: Path, tmp_path: Path, package: str
) -> None:
    (tmp_path / f"{package}.py").write_text("raise ImportError('none')")
    done = verify(small_bundle, PYTHONPATH=str(tmp_path))

    assert done.returncode == 3
    assert "missing" in done.stdout
    assert "\npassed" not in done.stdout


@pytest.mark.slow
def test_a_bundle_without_golden_answers_does_not_pass(copy: Path) -> None:
    shutil.rmtree(copy / "golden")
    seal(copy)

    assert verify(copy).returncode == 3


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("golden/expected.json", "[]"),
        ("golden/expected.json", "{"),
        ("golden/inputs.npy", "no array"),
        ("labels.txt", ""),
        ("model.onnx", "no model"),
        ("preprocess.json", "{}"),
        ("preprocess.json", "[]"),
    ],
)
def test_files_of_other_content_fail_in_a_sentence(copy: Path, name: str, content: str) -> None:
    (copy / name).write_text(content)
    seal(copy)
    done = verify_in_this_process(copy)

    assert done.returncode == 1, done.stdout


@pytest.mark.slow
def test_it_makes_inputs_of_odd_photos_as_trainer_does(small_bundle: Path, tmp_path: Path) -> None:
    write_odd_files(tmp_path / "odd")
    deep = np.linspace(0, 65535, 48 * 64).reshape(48, 64).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "odd" / "deep.png")
    odd = sorted((tmp_path / "odd").iterdir())
    code = (
        "import sys, numpy as np; from pathlib import Path\n"
        "sys.path.insert(0, sys.argv[1]); from verify import to_input\n"
        f"np.save(sys.argv[2], [to_input(Path(one).read_bytes(), {PREPROCESS!r}) for one in sys.argv[3:]])"
    )
    done = run("python3", "-B", "-c", code, small_bundle, tmp_path / "made.npy", *odd)

    assert done.returncode == 0, done.stdout
    ours = np.stack([to_input(one.read_bytes(), PREPROCESS) for one in odd])
    np.testing.assert_array_equal(np.load(tmp_path / "made.npy"), ours)


@pytest.mark.parametrize("name", ["verify.py", "classify.py"])
def test_it_is_python_3_8_as_jetpack_5_has_it(name: str) -> None:
    ast.parse((DEVICE / name).read_text(), feature_version=(3, 8))


@pytest.fixture
def tensorrt(tmp_path: Path) -> dict[str, str]:
    """The environment in which the stand-ins of TensorRT's package and of CUDA are found."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler here to make a stand-in of CUDA with")
    folder = tmp_path / "cuda"
    folder.mkdir()
    shutil.copy(HERE / "tensorrt.py", folder)
    subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "libcudart.so", HERE / "cudart.c"], check=True)
    return {"PYTHONPATH": str(folder), "LD_LIBRARY_PATH": str(folder)}


@pytest.mark.slow
def test_an_engine_is_run_by_tensorrt_in_batches_that_it_takes(
    copy: Path, trtexec: Callable[[str], Path], tensorrt: dict[str, str]
) -> None:
    built = run("sh", copy / "build_engine.sh", TRTEXEC=str(trtexec("10.3.0")))
    assert built.returncode == 0, built.stdout
    (engine,) = (copy / "engines").glob("*.plan")

    done = verify(copy, engine, **tensorrt)
    assert done.returncode == 0, done.stdout
    assert re.search(rf"{engine.name} passed   largest difference \d.\de-\d+ of 0.01 allowed", done.stdout)

    upgraded = verify(copy, **tensorrt, TENSORRT_VERSION="10.16.2.10")
    assert upgraded.returncode == 0, upgraded.stdout
    assert (
        "not checked: it is of another TensorRT than the 10.16.2.10 here: sh build_engine.sh"
        in upgraded.stdout
    )
    assert verify(copy, engine, **tensorrt, TENSORRT_VERSION="10.16.2.10").returncode == 3


@pytest.mark.slow
def test_an_engine_of_another_network_or_none_fails(
    copy: Path, trtexec: Callable[[str], Path], tensorrt: dict[str, str]
) -> None:
    channels_of_the_network(copy)
    run("sh", copy / "build_engine.sh", TRTEXEC=str(trtexec("10.3.0")))
    (engine,) = (copy / "engines").glob("*.plan")
    wrong = verify(copy, engine, **tensorrt)
    engine.write_bytes(engine.read_bytes()[10:])
    none = verify(copy, engine, **tensorrt)

    assert "FAILED   a probability differs by" in wrong.stdout
    assert "is no engine that TensorRT can load here" in none.stdout
    assert (wrong.returncode, none.returncode) == (1, 1)


@pytest.mark.slow
def test_an_engine_that_nothing_can_run_is_said_to_be_unchecked(
    copy: Path, trtexec: Callable[[str], Path]
) -> None:
    run("sh", copy / "build_engine.sh", TRTEXEC=str(trtexec("10.3.0")))
    (engine,) = (copy / "engines").glob("*.plan")

    everything, alone = verify(copy), verify(copy, engine)
    assert (everything.returncode, alone.returncode) == (0, 3)
    assert everything.stdout.splitlines()[-1] == f"passed; not checked: {engine.name}"


@pytest.mark.slow
def test_nothing_is_written_or_reported_to_anybody(small_bundle: Path, tmp_path: Path) -> None:
    before = sorted(small_bundle.rglob("*"))
    done = verify(small_bundle, HOME=str(tmp_path))

    assert done.returncode == 0
    assert os.listdir(tmp_path) == []
    assert sorted(small_bundle.rglob("*")) == before
