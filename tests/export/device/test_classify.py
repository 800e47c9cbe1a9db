"""classify.py says of a photo or a frame what the golden answers say."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.export.device.conftest import golden, run

HERE = Path(__file__).parent


def test_photos_are_named_with_their_five_most_likely_classes(small_bundle: Path, tmp_path: Path) -> None:
    expected = json.loads((small_bundle / "golden/expected.json").read_text())
    (tmp_path / "no photo").write_text("text")
    photos = [small_bundle / one["photo"] for one in expected]
    done = run("python3", small_bundle / "classify.py", *photos, tmp_path / "no photo", cwd=tmp_path)

    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == "model.onnx, 6 classes"
    for photo, one in zip(photos, expected, strict=True):
        words = ", ".join(f"{top['class']} {top['probability']:.1%}" for top in one["top5"])
        assert f"{photo}: {words}  (" in done.stdout
    assert "classify: " in done.stdout.splitlines()[-1]
    assert "no photo: cannot identify image file" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("camera", "opened"),
    [
        ("0", "opened 0 0"),
        ("rtsp://host/x", "opened 'rtsp://host/x' 0"),
        ("csi:1", "opened 'nvarguscamerasrc sensor-id=1 !"),
    ],
)
def test_a_camera_is_classified_frame_by_frame(
    small_bundle: Path, tmp_path: Path, camera: str, opened: str
) -> None:
    shutil.copy(HERE / "cv2.py", tmp_path)
    stand_in = {
        "PYTHONPATH": str(tmp_path),
        "CV2_PHOTO": str(small_bundle / "golden/1.jpeg"),
        "CV2_FRAMES": "3",
    }
    command = ("python3", small_bundle / "classify.py", "--camera", camera, "--json", "--top", "6")
    done = run(*command, "--frames", "2", **stand_in)

    assert done.returncode == 0, done.stdout
    lines = done.stdout.splitlines()
    assert any(line.startswith(opened) for line in lines), lines
    assert "released" in lines
    frames = [json.loads(line) for line in lines if line.startswith("{")]
    assert [frame["image"] for frame in frames] == ["frame 0", "frame 1"]
    answers = [top["probability"] for top in frames[0]["top"]]
    np.testing.assert_allclose(
        answers, np.sort(golden(small_bundle, "probabilities")[1])[::-1], rtol=0, atol=1e-4
    )


@pytest.mark.slow
def test_an_engine_that_cannot_be_loaded_is_left_out_and_said(
    copy: Path, trtexec: Callable[[str], Path]
) -> None:
    run("sh", copy / "build_engine.sh", TRTEXEC=str(trtexec("10.3.0")))
    done = run("python3", copy / "classify.py", copy / "golden/0.jpeg")

    assert done.returncode == 0, done.stdout
    assert ".plan is left out: TensorRT's Python package is missing" in done.stdout
    assert "model.onnx, 6 classes" in done.stdout


@pytest.mark.slow
def test_what_is_missing_or_wrong_is_said_in_a_sentence(small_bundle: Path, tmp_path: Path) -> None:
    classify = ("python3", small_bundle / "classify.py")
    without = run(*classify, "--camera", "0")
    shutil.copy(HERE / "cv2.py", tmp_path)
    broken = run(*classify, "--camera", "0", PYTHONPATH=str(tmp_path), CV2_FRAMES="-1")
    both = run(*classify, "--camera", "0", "photo.jpg")
    nowhere = run(*classify, "nowhere.jpg")

    assert (without.returncode, "cv2 is missing: sudo apt-get install python3-opencv" in without.stdout) == (
        3,
        True,
    )
    assert (broken.returncode, "camera 0 cannot be opened" in broken.stdout) == (1, True)
    assert (both.returncode, "name photos or --camera" in both.stdout) == (2, True)
    assert (nowhere.returncode, "No such file" in nowhere.stdout) == (1, True)
