"""Folders as nobody would make them: never a traceback, and never a class or a file lost without a word."""

from __future__ import annotations

import contextlib
import io
import json
import os
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, event, given, settings
from hypothesis import strategies as st
from PIL import Image

from trainer.cli import main
from trainer.dataset._manifest import QUARANTINE
from trainer.dataset._names import is_system_folder, same_to_the_eye, utf8

pytestmark = pytest.mark.slow

MODES = ("RGB", "L", "P", "1", "RGBA", "LA", "CMYK", "YCbCr", "LAB", "HSV", "I", "F", "I;16")
SECONDS = 45  # for all examples of a test; later ones are not tried
DAMAGE = ("none", "none", "none", "cut", "emptied", "zeros", "garbage", "flipped", "doubled")
ENDINGS = (".jpg", ".JPEG", ".png", ".webp", ".jfif", ".gif", ".txt", "")


class File(NamedTuple):
    name: str
    kind: str  # format and mode
    damage: str


class Class(NamedTuple):
    files: list[File]
    below: str  # a folder in the class folder, or ""


@cache
def pictures() -> dict[str, bytes]:
    """A small picture in every format and mode that Pillow writes."""
    Image.init()
    colours = np.random.default_rng(0).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    base = Image.fromarray(colours).resize((61, 47), Image.Resampling.BICUBIC)
    made = {}
    for name in sorted(Image.SAVE):
        for mode in MODES:
            file = io.BytesIO()
            with contextlib.suppress(Exception), warnings.catch_warnings(action="ignore"):
                image = base.convert("L").convert("I;16") if mode == "I;16" else base.convert(mode)
                image.save(file, name)
                made[f"{name} {mode}"] = file.getvalue()
    return made


def contents(file: File) -> bytes:
    data = pictures()[file.kind]
    middle = len(data) // 2
    match file.damage:
        case "cut":
            return data[:middle]
        case "emptied":
            return b""
        case "zeros":
            return bytes(len(data))
        case "garbage":
            return data[:20] + b"\0garbage" + data[20:]
        case "flipped":
            return data[:middle] + bytes([data[middle] ^ 255]) + data[middle + 1 :]
        case "doubled":
            return data + data
    return data


def short(name: str) -> bool:
    return len(os.fsencode(name)) <= 200 and name not in (".", "..")


# Everything but control characters, and bytes that are no UTF-8.
LETTERS = st.one_of(
    st.characters(exclude_categories=("Cc", "Cs", "Zl", "Zp"), exclude_characters="/"),
    st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF, categories=("Cs",)),
)
NAMES = st.one_of(
    st.text(LETTERS, min_size=1, max_size=12),
    st.sampled_from(
        ("@eaDir", "__MACOSX", ".hidden", "train", "val", "a\nb", "x\x1b[31m", "[bold]", "-rf", "caf\xe9")
    ),
    st.just("cafe\u0301"),
).filter(short)
FILES = st.builds(
    lambda stem, ending, kind, damage: File(stem + ending, kind, damage),
    NAMES,
    st.sampled_from(ENDINGS),
    # Half of them are what they are meant to be.
    st.one_of(st.sampled_from(("JPEG RGB", "JPEG L", "PNG RGB")), st.sampled_from(sorted(pictures()))),
    st.sampled_from(DAMAGE),
)
GOOD = st.builds(File, st.integers(0, 9).map("good {}.jpg".format), st.just("JPEG RGB"), st.just("none"))
CLASSES = st.builds(
    lambda good, odd, below: Class([*good, *odd], below),
    st.lists(GOOD, min_size=2, max_size=3, unique_by=lambda file: file.name),
    st.lists(FILES, max_size=3),
    st.one_of(st.just(""), st.just(""), NAMES),
)
HOPELESS = st.builds(Class, st.lists(FILES, max_size=2), st.just(""))


@st.composite
def trees(draw: st.DrawFn) -> dict[str, Class]:
    """Classes by name: mostly such as can be trained on."""
    made = draw(st.dictionaries(NAMES, CLASSES, min_size=1, max_size=4))
    if draw(st.integers(0, 3)) == 0:
        made |= draw(st.dictionaries(NAMES, HOPELESS, max_size=1))
    return made


def write(root: Path, tree: dict[str, Class], *, in_splits: bool) -> None:
    for seed, split in enumerate(("train", "val") if in_splits else ("",)):
        (root / split).mkdir(exist_ok=True)
        for name, (files, below) in tree.items():
            folder = root / split / name / below
            folder.mkdir(parents=True, exist_ok=True)
            for file in files:
                (folder / file.name).write_bytes(contents(file) + bytes(seed))


def entries(folder: Path, apart: str = "") -> Iterator[str]:
    """What must be accounted for: files, and folders that are not entered."""
    for entry in os.scandir(folder):
        if entry.is_file() or is_system_folder(entry.name) or entry.name == apart:
            yield entry.path
        else:
            yield from entries(Path(entry.path))


def called(*arguments: Any) -> tuple[int, Any]:
    """Exit code of a command, and what it prints; what it refuses is one sentence without a traceback."""
    out, err = (
        io.TextIOWrapper(io.BytesIO(), "utf-8"),
        io.TextIOWrapper(io.BytesIO(), "utf-8", errors="backslashreplace"),
    )
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([str(argument) for argument in arguments])
    texts = []
    for file in (out, err):
        file.seek(0)
        texts.append(file.read())
    if code:
        said = [line for line in texts[1].split("\n") if line.startswith("trainer: ")]
        assert (code, len(said)) == (2, 1), texts[1]
        return code, said[0]
    return code, json.loads(texts[0])


def in_time(seconds: float) -> Callable[[], bool]:
    """Whether `seconds` since the first call are not over."""
    end: list[float] = []

    def ask() -> bool:
        end.append(end[0] if end else time.monotonic() + seconds)
        return time.monotonic() < end[0]

    return ask


PHASES = [Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink]  # to explain takes minutes
time_is_left = in_time(SECONDS)


@settings(
    max_examples=300, deadline=None, phases=PHASES, suppress_health_check=list(HealthCheck), print_blob=True
)
@given(tree=trees(), in_splits=st.booleans(), copied=st.booleans())
def test_any_tree_of_folders_is_prepared_whole_or_refused_in_a_sentence(
    tree: dict[str, Class], in_splits: bool, copied: bool
) -> None:
    if not time_is_left():
        return
    with tempfile.TemporaryDirectory() as folder:
        root, out = Path(folder, "own"), Path(folder, "out")
        root.mkdir()
        write(root, tree, in_splits=in_splits)
        apart = "" if in_splits else QUARANTINE  # what `check` has moved out of a folder without splits
        found = sum(
            1 for split in (("train", "val") if in_splits else ("",)) for _ in entries(root / split, apart)
        )
        arguments = ["prepare", "folder", root, *([] if in_splits else ["--val-fraction", "0.3"])]
        arguments += ["--out", out] if copied else []

        code, said = called(*arguments, "--json")
        event("refused" if code else "prepared")
        if code:
            assert not (root / "dataset.json").is_file()
            return

        wanted = {same_to_the_eye(utf8(name)) for name in tree if not is_system_folder(name)} - {apart}
        assert {same_to_the_eye(name) for name in said["classes"]} == wanted
        told = (
            sum(said["counts"].values()) + len(said["skipped"]) + sum(one["files"] for one in said["ignored"])
        )
        assert told == found
        assert called(*arguments, "--json") == (0, {**said, "made": False})
        code, checked = called("check", out if copied else root, "--json")
        assert (code, checked["findings"]) == (0, [])
