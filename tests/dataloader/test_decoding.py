"""Judging images in a child process, which may die of one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.dataset.encoded import all_kinds, encoded, sixteen_bits, with_text
from trainer.dataloader import _child, check_decoding
from trainer.dataloader._child import DecodingChild
from trainer.dataloader._in_hand import InHand, culprit_of, find_culprit
from trainer.dataset import folder, open_dataset, prepare
from trainer.ranks import IN_HAND

ROOT = Path(__file__).parents[2]


def written(root: Path, files: dict[str, bytes]) -> list[bytes]:
    paths = []
    for name, data in files.items():
        (root / name).write_bytes(data)
        paths.append(os.fsencode(root / name))
    return paths


@pytest.mark.parametrize(
    ("name", "damaged"),
    [
        ("cut.jpg", encoded()[:-20]),
        ("end.jpg", encoded()[:-2]),  # Pillow reads it to its end
        ("byte.png", encoded("PNG")[:-1]),  # and this one
        ("zeros.jpg", bytes(2000)),
    ],
)
def test_the_culprit_is_what_the_decoder_that_failed_does_not_decode(
    tmp_path: Path, name: str, damaged: bytes
) -> None:
    paths = written(tmp_path, {f"{seed}.jpg": encoded(seed=seed) for seed in range(70)} | {name: damaged})

    assert f"the image {tmp_path / name} cannot be decoded (" in str(find_culprit(paths, "cpu"))


def test_among_sound_images_there_is_no_culprit(tmp_path: Path) -> None:
    paths = written(tmp_path, {f"{seed}.jpg": encoded(seed=seed) for seed in range(70)})

    assert find_culprit(paths, "cpu") is None


DYING = """
import json, os, signal, sys
print("ready", flush=True)
for line in sys.stdin:
    (path,) = json.loads(line)
    if "deadly" in path:
        os.kill(os.getpid(), signal.SIGSEGV)
    print("null", flush=True)
"""


@pytest.fixture
def dying(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A decoder that dies of some images."""
    program = tmp_path / "dying.py"
    program.write_text(DYING)
    monkeypatch.setattr(_child, "PROGRAM", program)


@pytest.mark.usefixtures("dying")
def test_a_decoder_that_dies_of_an_image_tells_which_and_the_others_are_judged() -> None:
    requests = [[f"{number}" + ("-deadly" if number in (0, 70, 71, 199) else "")] for number in range(200)]

    with DecodingChild("cpu") as child:
        answers = list(child.answers(requests))

    assert [request for request, _ in answers] == requests
    died = [request[0] for request, answer in answers if answer == "the decoder dies of it, SIGSEGV"]
    assert died == ["0-deadly", "70-deadly", "71-deadly", "199-deadly"]


def test_a_decoder_that_cannot_be_started_is_no_finding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken.py").write_text("import nowhere")
    monkeypatch.setattr(_child, "PROGRAM", tmp_path / "broken.py")

    with DecodingChild("cpu") as child, pytest.raises(RuntimeError, match="No module named 'nowhere'"):
        list(child.answers([["a.jpg"]]))


@pytest.mark.usefixtures("dying")
def test_notes_outlive_the_process_and_name_the_image_it_died_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "notes").mkdir()
    monkeypatch.setenv(IN_HAND, str(tmp_path / "notes"))
    ours, others = InHand("cpu", kept=3), InHand("mixed", kept=3)
    for number in range(8):
        ours.add([b"%d-deadly" % number if number < 5 else b"%d" % number])
        others.add([b"a", b"b"])

    assert culprit_of(tmp_path / "notes") is None  # the first batches have been decoded long ago
    others.add([b"c", b"d-deadly"])
    assert "d-deadly cannot be decoded (the decoder dies of it, SIGSEGV)" in str(
        culprit_of(tmp_path / "notes")
    )


def test_a_user_s_folder_cannot_replace_what_the_decoder_imports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("json", "trainer", "simplejpeg", "random"):
        (tmp_path / f"{name}.py").write_text("open('canary', 'w')")
    monkeypatch.chdir(tmp_path)

    assert find_culprit(written(tmp_path, {"a.jpg": encoded()}), "cpu") is None
    assert not Path("canary").exists()


def prepared(root: Path, files: dict[str, bytes]) -> Path:
    for split in ("train", "val"):
        (root / split / "c").mkdir(parents=True)
        written(root / split / "c", files)
    prepare(folder(root, out=root), root)
    return root


def test_pngs_of_16_bits_and_with_long_texts_are_good(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = prepared(
        tmp_path,
        {
            "16.png": sixteen_bits(),
            "text.png": with_text(encoded("PNG"), behind=False),
            "behind.png": with_text(encoded("PNG"), behind=True),
            "palette.png": encoded("PNG", mode="P", transparency=0),
        },
    )

    found = list(check_decoding(open_dataset(root)))
    assert len(found) == 8
    assert {(one.kind, one.reason) for one in found} == {("handled", "PNG, not JPEG")}
    assert capfd.readouterr() == ("", "")  # neither Pillow's warnings nor libjpeg's lines, which name no file


@pytest.mark.slow
def test_check_and_prepare_survive_every_kind_of_image(tmp_path: Path) -> None:
    """With glibc's checks of the heap on: simplejpeg writes past it when it scales a lossless JPEG."""
    kinds = dict(all_kinds())
    for split in ("train", "val"):
        (tmp_path / split / "c").mkdir(parents=True)
        written(tmp_path / split / "c", kinds if split == "train" else {"a.jpg": encoded()})

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "trainer", *arguments],
            env={**os.environ, "MALLOC_CHECK_": "3", "MALLOC_PERTURB_": "165", "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=False,
        )

    made = run("prepare", "folder", str(tmp_path), "--json")
    assert made.returncode == 0, made.stderr
    skipped = {Path(one.path).name for one in open_dataset(tmp_path).skipped}
    for number in (3, 5, 6, 7, 11, 13, 14, 15):
        assert {f"sof{number}-{name}.jpg" for name in ("baseline", "progressive", "grey")} <= skipped
    assert "lossless-64.jpg" in skipped
    assert not skipped & {
        "sampling-141111.jpg",
        "sampling-421111.jpg",
        "grey-2x2.jpg",
        "text.png",
        "cmyk.jpg",
    }

    checked = run("check", str(tmp_path), "--decode", "--json")
    assert checked.returncode == 2, checked.stderr
    assert "Traceback" not in checked.stderr
    findings = json.loads(checked.stdout)["findings"]
    assert [one for one in findings if "dies" in one["reason"]] == []
    assert {Path(one["path"]).name for one in findings} <= set(kinds)


# Decodes files that begin as sound images do, one by one: DALI's own parser must refuse none of those that we take.
PARSING = """
import json, os, random, sys
import numpy as np
from tests.dataset.encoded import encoded, webp_with_exif
from trainer.dataset import Refused, read_header
sys.path.insert(0, sys.argv[1])
from _decoding import _single_image_pipeline

stdout = os.fdopen(os.dup(1), "w")
os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
rng, taken, refused, pipeline = random.Random(5), 0, [], None
sound = [encoded(), encoded(progressive=True), encoded(mode="CMYK"), encoded("PNG"), encoded("PNG", mode="P")]
sound += [encoded("WEBP"), encoded("WEBP", lossless=True), webp_with_exif()]
for trial in range(3000):
    source = rng.choice(sound)
    data = bytearray(source)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        place = rng.randrange(2, 620 if source[:1] == b"\\xff" else 60)
        data[place : place + rng.randrange(9)] = rng.choice([rng.randbytes(rng.randrange(9)), bytes(2), b"\\xff"])
    try:
        header = read_header(bytes(data))
    except Refused:
        continue
    if header.width * header.height > 10**6:
        continue
    taken += 1
    try:
        if pipeline is None:
            pipeline = _single_image_pipeline({"device": "cpu"}, None)
        pipeline.feed_input("encoded", [np.frombuffer(bytes(data), np.uint8)])
        (out,) = pipeline.run()
        assert out.at(0).shape[:2] == (header.height, header.width)
    except RuntimeError as error:
        pipeline = None
        if "nvImageCodec failure" in str(error):  # at the parsing; of the decoding it says "Failed to decode"
            refused.append(bytes(data).hex())
print(json.dumps([taken, refused]), file=stdout)
"""


def test_dalis_parser_refuses_no_header_that_is_taken() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PARSING, str(ROOT / "trainer" / "dataloader")],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )

    assert done.returncode == 0, signal.Signals(-done.returncode).name
    taken, refused = json.loads(done.stdout)
    assert taken > 500
    assert refused == []
