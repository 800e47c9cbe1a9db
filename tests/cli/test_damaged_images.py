"""Training and evaluation on images that went bad: they end with exit code 2 and the image's name."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, SETTINGS, SMALL, command
from tests.cli.damaged import Case, arguments_of, damage, make_photos
from trainer.dataset import folder, prepare


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with photos, and a run on them."""
    root = tmp_path_factory.mktemp("good")
    make_photos(root / "photos")
    prepare(folder(root / "photos", out=root / "photos"), root / "photos")
    arguments = arguments_of(Case("none", 0, 1, "train", 0), root / "photos", root / "runs", root)
    process = command(*arguments, folder=root)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    return root


@pytest.fixture
def photos(good: Path, tmp_path: Path) -> Path:
    make_photos(tmp_path / "photos")
    for path in [*good.glob("photos/index-*"), good / "photos" / "dataset.json"]:
        (tmp_path / "photos" / path.name).write_bytes(path.read_bytes())
    return tmp_path / "photos"


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        Case("zeros", 2, 1, "train", 1),
        Case("garbage", 1, 2, "train", 2),
        Case("other", 2, 2, "validation", 3),
        Case("zeros", 1, 1, "evaluate", 4),
        Case("garbage", 2, 2, "evaluate", 5),
    ],
    ids=str,
)
def test_a_damaged_image_ends_a_run_with_its_name(
    good: Path, photos: Path, tmp_path: Path, case: Case
) -> None:
    """A handful; `python -m tests.cli.damaged` does 200."""
    names = damage(photos, case)
    (model,) = (good / "runs").glob("digits-*")
    process = command(*arguments_of(case, photos, tmp_path / "runs", model), folder=tmp_path)
    _, err = process.communicate(timeout=300)

    assert process.returncode == 2, err
    assert any(f"trainer: the image {photos / name} has" in err for name in names), err
    assert "Traceback" not in err


# A process that dies by a signal when a decoder gets one of the damaged images: what DALI does in some of its runs.
DYING = """
import sys
if "trainer" in sys.orig_argv or any("trainer/__main__" in word for word in sys.orig_argv):
    import os, signal
    import trainer.dataloader._in_hand as in_hand, trainer.dataloader._reader as reader

    def add(self, paths, before=in_hand.InHand.add):
        before(self, paths)
        for path in paths:
            if not any(open(path, "rb").read(100)):
                os.kill(os.getpid(), signal.SIGSEGV)

    in_hand.InHand.add = add
    reader.verify = lambda *_: None
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phase", "processes"), [("train", 1), ("train", 2), ("validation", 1), ("evaluate", 2)]
)
def test_a_process_that_dies_of_an_image_is_followed_by_the_image_s_name(
    good: Path, photos: Path, tmp_path: Path, phase: str, processes: int
) -> None:
    case = Case("zeros", 1, processes, phase, 0)
    (name,) = damage(photos, case)
    (tmp_path / "dying").mkdir()
    (tmp_path / "dying" / "sitecustomize.py").write_text(DYING)
    (model,) = (good / "runs").glob("digits-*")
    arguments = arguments_of(case, photos, tmp_path / "runs", model)
    process = command(*arguments, folder=tmp_path, PYTHONPATH=f"{tmp_path / 'dying'}:{ROOT}")
    _, err = process.communicate(timeout=300)

    assert process.returncode == 2, err
    said = f"trainer: the image {photos / name} cannot be decoded (it is no image: it begins with zeros)"
    assert said in err
    assert "Traceback" not in err
    assert "started again" not in err


@pytest.mark.slow
def test_fewer_validation_images_than_processes(tmp_path: Path) -> None:
    make_photos(tmp_path / "photos")
    for path in sorted((tmp_path / "photos" / "val").rglob("*.jpg"))[:-1]:
        path.unlink()
    kept = next((tmp_path / "photos" / "val").rglob("*.jpg")).parent.name
    for path in (tmp_path / "photos" / "train").iterdir():
        if path.name != kept:
            for photo in path.iterdir():
                photo.rename(tmp_path / "photos" / "train" / kept / f"moved-{photo.name}")
            path.rmdir()
            (tmp_path / "photos" / "val" / path.name).rmdir()
    prepare(folder(tmp_path / "photos", out=tmp_path / "photos"), tmp_path / "photos")
    common = ["--data", "photos", "--device", "cpu", "--nproc-per-node", 2, "--no-report", "--no-export"]
    process = command("train", "digits", *SETTINGS, *SMALL, *common, folder=tmp_path)
    said, err = process.communicate(timeout=300)

    assert process.returncode == 0, err
    assert "of 1 validation images" in said + err
