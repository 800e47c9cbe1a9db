"""What names of files and folders say."""

from __future__ import annotations

import subprocess
import sys
import unicodedata

import pytest

from trainer.dataset import several, shown
from trainer.dataset._names import (
    ending_of,
    has_control,
    is_system_member,
    same_to_the_eye,
    utf8,
    words,
)


def test_control_characters_are_those_that_unicode_calls_so_and_the_two_separators() -> None:
    refused = {chr(code) for code in range(0x110000) if has_control(chr(code))}
    assert refused == {
        chr(code) for code in range(0x110000) if unicodedata.category(chr(code)) in ("Cc", "Zl", "Zp")
    }


def test_whatever_is_shown_is_plain_text() -> None:
    assert shown("a\nb\x1b[31m\u2028\x9f") == r"a\nb\x1b[31m\u2028\x9f"
    assert shown("caf\udce9 猫") == r"caf\xe9 猫"
    assert shown("bee\u00a0fly") == "bee\u00a0fly"
    assert several(["b", "a\n", "c", "d"]) == r"a\n, b, c …"


def test_words_are_valid_utf8() -> None:
    assert words("caf\udce9") == r"caf\xe9"
    assert words("café") == "café"


def test_names_that_differ_in_their_bytes_only_look_the_same() -> None:
    assert same_to_the_eye("cafe\u0301") == same_to_the_eye("caf\xe9")
    assert same_to_the_eye("caf\udce9") != same_to_the_eye("caf\xe9")


@pytest.mark.parametrize("locale", ["C", "de_DE.ISO-8859-1"])
def test_a_class_has_the_same_name_in_every_locale(locale: str) -> None:
    """Python reads names in the encoding of the locale; what it makes of é must not get into a manifest."""
    said = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import os; from {utf8.__module__} import utf8; print(ascii(utf8(os.fsdecode(b'caf\\xc3\\xa9'))))",
        ],
        env={
            "PYTHONUTF8": "0",
            "PYTHONCOERCECLOCALE": "0",
            "LC_ALL": locale,
            "PYTHONPATH": ":".join(sys.path),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    assert said.stdout == "'caf\\xe9'\n"


@pytest.mark.parametrize(
    ("path", "ending"),
    [
        ("a/x.TIF", ".tif"),
        ("a.b/README", ""),
        (".DS_Store", ""),
        ("a/._x.JPEG", ".jpeg"),
        ("x.tar.gz", ".gz"),
    ],
)
def test_endings(path: str, ending: str) -> None:
    assert ending_of(path) == ending


@pytest.mark.parametrize(
    "name", ["__MACOSX/a/x.JPEG", "a/._x.JPEG", ".DS_Store", "a/@eaDir/x.jpg", "a/Thumbs.db"]
)
def test_what_operating_systems_add_is_known_at_any_depth(name: str) -> None:
    assert is_system_member(name)


@pytest.mark.parametrize("name", ["a/x.JPEG", "../x.JPEG", "/etc/x.JPEG", "MACOSX/x.JPEG"])
def test_nothing_else_is_taken_for_it(name: str) -> None:
    assert not is_system_member(name)
