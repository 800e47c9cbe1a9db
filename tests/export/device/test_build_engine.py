"""build_engine.sh gives each trtexec what it takes, and leaves a whole engine or none.

The stand-ins refuse an option that the real ones do not know, by lists from NVIDIA's source (trtexec_options.txt).
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.export.device.conftest import VERSIONS, run, slow_cases

Trtexec = Callable[[str], Path]


def build(
    folder: Path, trtexec: Path, *arguments: str, shell: str = "sh"
) -> subprocess.CompletedProcess[str]:
    return run(*shell.split(), folder / "build_engine.sh", *arguments, TRTEXEC=str(trtexec))


def calls(trtexec: Path) -> list[list[str]]:
    file = trtexec.with_name("calls")
    return [line.split() for line in file.read_text().splitlines()] if file.exists() else []


@pytest.mark.parametrize("version", ["10.3.0", *slow_cases("8.5.2", "10.16.2", "11.4.1")])
@pytest.mark.parametrize(
    "arguments",
    ["", "--precision fp32", "--precision int8", "--dla 0", "--max-batch 1",
     "--timing-cache TMP/cache"],
)  # fmt: skip
def test_every_trtexec_takes_what_it_is_given(
    copy: Path, trtexec: Trtexec, version: str, arguments: str, tmp_path: Path
) -> None:
    program = trtexec(version)
    done = build(copy, program, *arguments.replace("TMP", str(tmp_path)).split())

    assert done.returncode == 0, done.stdout
    (engine,) = (copy / "engines").glob("*.plan")
    precision = arguments.split()[1] if "--precision" in arguments else "fp16"
    assert engine.name.startswith(f"{precision}-trt{version}-")
    assert engine.read_bytes().startswith(f"engine of TensorRT {VERSIONS[version]}\n".encode())
    assert sorted(path.name for path in (copy / "engines").iterdir()) == [".lock", engine.name]
    assert (tmp_path / "cache").exists() == ("cache" in arguments)


@pytest.mark.parametrize(
    ("version", "arguments", "model", "has", "lacks"),
    [
        (
            "8.5.2",
            "",
            "model.onnx",
            "--fp16 --buildOnly --maxShapes=input_0:8x3x32x32",
            "--skipInference --int8",
        ),
        ("10.3.0", "", "model.onnx", "--fp16 --skipInference --minShapes=input_0:1x3x32x32", "--buildOnly"),
        ("10.16.2", "--precision int8", "model_int8.onnx", "--int8 --fp16", ""),
        ("10.16.2", "--max-batch 4", "model.onnx", "--optShapes=input_0:2x3x32x32", ""),
        ("11.4.1", "", "model_fp16.onnx", "", "--fp16"),
        ("11.4.1", "--precision int8", "model_int8.onnx", "", "--int8 --fp16"),
        ("11.4.1", "--precision fp32", "model.onnx", "--noTF32", "--fp16"),
        ("8.5.2", "--dla 1", "model_batch1.onnx", "--useDLACore=1 --allowGPUFallback --fp16", "--minShapes"),
        ("11.4.1", "--dla 0", "model_fp16.onnx", "--useDLACore=0 --maxShapes=input_0:1x3x32x32", "--fp16"),
    ],
)
def test_the_file_and_the_flags_are_those_of_the_version(
    copy: Path, trtexec: Trtexec, version: str, arguments: str, model: str, has: str, lacks: str
) -> None:
    program = trtexec(version)
    assert build(copy, program, *arguments.split()).returncode == 0

    (call,) = calls(program)
    flags = {flag for given in call for flag in (given, given.partition("=")[0])}
    assert f"--onnx={model}" in call
    assert set(has.split()) <= flags
    assert not set(lacks.split()) & flags


@pytest.mark.parametrize(
    ("version", "flag"),
    [
        ("8.5.2", "--skipInference"),
        ("10.3.0", "--buildOnly"),
        ("10.16.2", "--fp17"),
        ("11.4.1", "--fp16"),
        ("11.4.1", "--int8"),
    ],
)
def test_the_stand_ins_refuse_what_the_real_ones_do_not_know(
    copy: Path, trtexec: Trtexec, version: str, flag: str
) -> None:
    done = run(
        trtexec(version),
        "--onnx=model.onnx",
        "--saveEngine=e",
        "--minShapes=input_0:1x3x32x32",
        flag,
        cwd=copy,
    )

    assert done.returncode == 1
    assert f"Unknown option: {flag}" in done.stdout


@pytest.mark.parametrize("shell", ["dash", "busybox sh"])
def test_an_engine_is_built_once_for_a_model_and_options(copy: Path, trtexec: Trtexec, shell: str) -> None:
    if subprocess.run([*shell.split(), "-c", ":"], capture_output=True).returncode:
        pytest.skip(f"there is no {shell} here")
    program = trtexec("10.3.0")
    build(copy, program, shell=shell)
    again = build(copy, program, shell=shell)
    assert "is there already" in again.stdout
    assert len(calls(program)) == 1

    build(copy, program, "--max-batch", "2", shell=shell)
    with (copy / "model.onnx").open("ab") as model:
        model.write(b"another")
    build(copy, program, shell=shell)
    build(copy, program, "--rebuild", shell=shell)
    assert len(calls(program)) == 4
    assert len(list((copy / "engines").glob("*.plan"))) == 3


def test_engines_of_another_tensorrt_are_removed_when_there_is_one_for_this(
    copy: Path, trtexec: Trtexec
) -> None:
    build(copy, trtexec("8.5.2"))
    build(copy, trtexec("10.3.0"), "--precision", "fp32")
    build(copy, trtexec("10.3.0"))

    names = sorted(path.name.rpartition("-batch")[0] for path in (copy / "engines").glob("*.plan"))
    assert names == ["fp16-trt10.3.0", "fp32-trt10.3.0"]


def test_a_failed_build_says_what_trtexec_said_and_keeps_the_engine_there_is(
    copy: Path, trtexec: Trtexec
) -> None:
    program = trtexec("10.3.0")
    build(copy, program)
    before = {path: path.read_bytes() for path in (copy / "engines").glob("*.plan")}
    program.with_name("broken").touch()
    done = build(copy, program, "--rebuild", "--timing-cache", str(copy / "cache"))

    assert done.returncode == 1
    assert "Engine could not be created from network" in done.stdout
    assert "trtexec of TensorRT 10.3.0 could not build it" in done.stdout
    assert {path: path.read_bytes() for path in (copy / "engines").glob("*.plan")} == before
    assert not (copy / "cache").exists()


def test_a_killed_build_leaves_no_engine_and_hinders_no_other(copy: Path, trtexec: Trtexec) -> None:
    program = trtexec("10.3.0")
    program.with_name("slow").write_text("30")
    killed = subprocess.Popen(
        ["sh", copy / "build_engine.sh"], env={"PATH": os.environ["PATH"], "TRTEXEC": str(program)},
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    while not program.with_name("calls").exists():
        assert killed.poll() is None
        time.sleep(0.01)
    second = build(copy, program)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert "another build is at work here" in second.stdout
    assert list((copy / "engines").glob("*.plan")) == []

    program.with_name("slow").unlink()
    assert build(copy, program).returncode == 0
    assert len(list((copy / "engines").iterdir())) == 2  # and .lock


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ("--precision fp8", 2, "--precision is fp16, fp32 or int8, not fp8"),
        ("--max-batch 0", 2, "--max-batch is a number of images, not 0"),
        ("--max-batch", 2, "--max-batch needs a value"),
        ("--dla first", 2, "--dla is the number of a core, not first"),
        ("--dla 0 --precision fp32", 2, "a DLA does not compute in fp32"),
        ("--precision int8 --dla 0", 2, "a DLA takes no Q/DQ nodes"),
        ("--fp16", 2, "there is no option --fp16"),
    ],
)
def test_a_wrong_call_is_refused_in_a_sentence(
    copy: Path, trtexec: Trtexec, arguments: str, code: int, says: str
) -> None:
    done = build(copy, trtexec("10.3.0"), *arguments.split())

    assert (done.returncode, says in done.stdout) == (code, True), done.stdout


def test_what_is_missing_is_named(copy: Path, trtexec: Trtexec, tmp_path: Path) -> None:
    nowhere = build(copy, tmp_path / "trtexec")
    assert (nowhere.returncode, "there is no trtexec" in nowhere.stdout) == (3, True)

    (copy / "model_int8.onnx").unlink()
    done = build(copy, trtexec("10.3.0"), "--precision", "int8")
    assert (done.returncode, "there is no model_int8.onnx here" in done.stdout) == (2, True)

    old = trtexec("10.3.0")
    old.with_name("version").write_text("8401")
    assert "TensorRT 8.4.1 is too old" in build(copy, old).stdout

    (tmp_path / "other").write_text("#!/bin/sh\necho hello\n")
    (tmp_path / "other").chmod(0o755)
    assert "does not say which TensorRT it is of: hello" in build(copy, tmp_path / "other").stdout


def test_jetson_inference_gets_the_static_model_the_labels_and_the_blobs(copy: Path, tmp_path: Path) -> None:
    imagenet = tmp_path / "imagenet"
    imagenet.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    imagenet.chmod(0o755)
    done = run("sh", copy / "run_jetson_inference.sh", "csi://0", "a b.jpg", IMAGENET=str(imagenet))

    assert done.stdout.splitlines() == [
        f"--model={copy}/model_batch1.onnx",
        f"--labels={copy}/labels.txt",
        "--input_blob=input_0",
        "--output_blob=output_0",
        "csi://0",
        "a b.jpg",
    ]
    assert run("sh", copy / "run_jetson_inference.sh").returncode == 2
    assert "there is no imagenet" in run("sh", copy / "run_jetson_inference.sh", "csi://0").stdout
