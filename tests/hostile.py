"""Files that are no checkpoints: pickles that would run code, and files of other kinds, each as bytes.

The canary of all of them is the same folder, which none of them may make.
"""

from __future__ import annotations

import io
import os
import pickle
import struct
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Runs:
    """Calls `function` with `arguments` when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self._reduced = function, arguments

    def __reduce__(self) -> Any:
        return self._reduced


def _pickles(canary: Path) -> Iterator[tuple[str, bytes]]:
    """Pickles that make the canary, in each way that the protocol has."""
    name, code = str(canary), f"__import__('os').mkdir({str(canary)!r})"
    calls: dict[str, Any] = {
        "os.mkdir": Runs(os.mkdir, name),
        "eval": Runs(eval, code),
        "exec": Runs(exec, code),
        "compile": Runs(exec, Runs(compile, code, "x", "exec")),
        "map": Runs(list, Runs(map, os.mkdir, [name])),
        "path": Runs(Path.mkdir, canary),
        "system": Runs(os.system, f"mkdir {name}"),
        "torch.load": Runs(torch.load, name, None),
        "in a state": {
            "recipe": {},
            "dataset_digest": "",
            "classes": {},
            "states": {"model": Runs(os.mkdir, name)},
        },
        "in a list": {"states": [Runs(os.mkdir, name)]},
    }
    for protocol in range(6):
        for label, value in calls.items():
            yield f"{label}, protocol {protocol}", pickle.dumps(value, protocol)
    word = name.encode()
    yield "global and reduce", b"cos\nmkdir\n(S'" + word + b"'\ntR."
    yield "inst", b"(S'" + word + b"'\nios\nmkdir\n."
    yield "obj", b"(cos\nmkdir\nS'" + word + b"'\no."
    yield "builtins", b"c__builtin__\neval\n(S'" + code.replace("'", '"').encode() + b"'\ntR."
    short = struct.pack("<B", len(word)) if len(word) < 256 else b"\xff"
    yield "stack global", b"\x80\x04\x8c\x02os\x8c\x05mkdir\x93\x8c" + short + word + b"\x85R."
    yield "build", b"\x80\x02ctorch\nTensor\n)\x81}S'__class__'\ncos\nmkdir\nsb."
    yield "persistent id", b"\x80\x02U\x01aQ."
    yield "dotted", b"\x80\x04\x8c\x05torch\x8c\x10serialization.os\x93."
    yield "extension", b"\x80\x02\x82\x01."
    yield "memo bomb", b"\x80\x02" + b"(" * 5000 + b"t" * 5000 + b"."
    yield "frame of nothing", b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b"."
    yield "endless string", b"\x80\x04\x8e" + struct.pack("<Q", 2**62)
    yield "stop", b"."
    yield "pop of nothing", b"\x80\x020."


def _archives(canary: Path) -> Iterator[tuple[str, bytes]]:
    """What torch and others write, with something else in it."""

    def zipped(**members: bytes) -> bytes:
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            for name, data in members.items():
                archive.writestr(name, data)
        return file.getvalue()

    def saved(value: Any, **options: Any) -> bytes:
        file = io.BytesIO()
        torch.save(value, file, **options)
        return file.getvalue()

    hostile = Runs(os.mkdir, str(canary))
    evil = pickle.dumps(hostile, 2)
    whole = {"recipe": {}, "dataset_digest": "", "classes": {}, "states": {}}
    yield "torch.save of a call", saved(hostile)
    yield "torch.save of a call, as it was once written", saved(hostile, _use_new_zipfile_serialization=False)
    yield "a call in a state", saved({**whole, "states": {"model": {"a": hostile}}})
    yield "a module", saved(torch.nn.Linear(1, 1))
    yield (
        "a call as storage",
        zipped(**{"archive/data.pkl": evil, "archive/data/0": evil, "archive/version": b"3\n"}),
    )
    yield (
        "TorchScript",
        zipped(**{"a/data.pkl": evil, "a/constants.pkl": evil, "a/code/a.py": b"x", "a/version": b"3\n"}),
    )
    yield "a pt2", zipped(**{"a/archive_format": b"pt2", "a/models/model.json": b"{}", "a/version": b"3\n"})
    yield "an empty zip", zipped()
    yield "a zip of texts", zipped(a=b"b")
    yield "a zip that leads out", zipped(**{"../../data.pkl": evil})
    yield "data.pkl of nothing", zipped(**{"archive/data.pkl": b"", "archive/version": b"3\n"})
    yield "data.pkl of text", zipped(**{"archive/data.pkl": b"hello", "archive/version": b"3\n"})
    missing = saved({"a": torch.zeros(3)})
    with zipfile.ZipFile(io.BytesIO(missing)) as archive:
        members = {one: archive.read(one) for one in archive.namelist() if "/data/" not in one}
    yield "a tensor without its numbers", zipped(**members)
    with zipfile.ZipFile(io.BytesIO(saved({"a": torch.zeros(1000)}))) as archive:
        members = {
            one: archive.read(one)[:8] if "/data/" in one else archive.read(one) for one in archive.namelist()
        }
    yield "a tensor with few of its numbers", zipped(**members)
    for value in (
        1,
        "text",
        [1],
        (),
        None,
        {},
        torch.zeros(3),
        {"states": 1},
        {1: 2},
        {**whole, "states": [1]},
    ):
        yield f"torch.save of {value!r:.30}", saved(value)
    for key in whole:
        yield f"no {key}", saved({k: v for k, v in whole.items() if k != key})
        odd = {"a": torch.zeros(1), "optimizer": 3} if key == "recipe" else {"a": 3, 4: []}
        yield f"{key} is odd", saved({**whole, key: odd})
        yield f"{key} is a number", saved({**whole, key: 3})
    yield "states of numbers", saved({**whole, "states": {"model": 3}})
    file = io.BytesIO()
    np.save(file, np.array([hostile], dtype=object), allow_pickle=True)
    yield "NumPy objects", file.getvalue()
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        for name in ("sys_info", "pickle", "storages", "tensors"):
            info = tarfile.TarInfo(name)
            info.size = len(evil)
            tar.addfile(info, io.BytesIO(evil))
    yield "torch's old tar", file.getvalue()
    yield "nothing", b""
    yield "zeros", bytes(4096)
    yield "text", b"not a checkpoint\n" * 9
    yield "a JPEG", b"\xff\xd8\xff\xe0" + bytes(99)
    yield "an ELF", b"\x7fELF" + bytes(99)
    yield "safetensors", b"\x08" + bytes(7) + b"{}      "
    yield "a gzip", b"\x1f\x8b\x08" + bytes(40)
    half = saved({**whole, "states": {"model": {"a": torch.zeros(99)}}})
    for share in (1, 3, 5, 7):
        yield f"cut to {share} eighths", half[: len(half) * share // 8]
    for at in range(0, len(half), max(1, len(half) // 16)):
        yield f"a byte of zero at {at}", half[:at] + b"\0" + half[at + 1 :]


def hostile_files(canary: Path) -> list[tuple[str, bytes]]:
    """Names and contents of more than a hundred files."""
    return [*_pickles(canary), *_archives(canary)]
