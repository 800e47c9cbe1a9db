"""The whole way without a network and with an empty home: nothing is written there, and no name is looked up."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.conftest import ROOT, SETTINGS, SMALL
from trainer.processes import child_command

pytestmark = pytest.mark.slow

# What follows a training, each once; {data} stands for the options of an evaluation.
MODEL = "models:/cats-and-dogs@candidate"
AFTER = (
    f"export {MODEL} --out bundle --json",
    "evaluate bundle {data}",
    f"evaluate {MODEL} {{data}}",
    f"publish {MODEL} --repo cats --space dogs --dry-run --out published --json",
)

# In a network of its own, where nothing but the loopback is, and a name server that notes what it is asked.
INSIDE = """
import fcntl, json, os, socket, struct, subprocess, sys, threading
asked, listening = [], socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
fcntl.ioctl(listening, 0x8914, struct.pack("16sh", b"lo", 0x1 | 0x40))  # SIOCSIFFLAGS: up and running
listening.bind(("127.0.0.1", 53))
def answer():
    while True:
        data, whom = listening.recvfrom(4096)
        labels, at = [], 12
        while data[at]:
            labels.append(data[at + 1 : at + 1 + data[at]].decode())
            at += 1 + data[at]
        asked.append(".".join(labels))
        listening.sendto(data[:2] + bytes([0x81, 0x83]) + data[4:], whom)  # there is no such name
threading.Thread(target=answer, daemon=True).start()
os.makedirs(sys.argv[1], exist_ok=True)
said = []
for command in json.loads(sys.argv[2]):
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    said.append(done.stdout)
    assert done.returncode == 0, done.stderr
print(json.dumps([asked, said]))
"""


def isolated() -> list[str]:
    """A command prefix for a network and a list of name servers of its own."""
    return ["unshare", "--net", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]


def in_isolation(
    home: Path, folder: Path, *commands: list[str], **environment: str
) -> tuple[list[str], list[str]]:
    """The names that were looked up, and what the commands printed."""
    resolv = folder / "resolv.conf"
    resolv.write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    shell = f'mount --bind {resolv} /etc/resolv.conf && exec "$@"'
    env = {
        "PATH": os.environ["PATH"],
        "HOME": str(home),
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        **environment,
    }
    done = subprocess.run(
        [*isolated(), "sh", "-c", shell, "sh", sys.executable, "-c", INSIDE, home, json.dumps(commands)],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    asked, said = json.loads(done.stdout)
    return asked, said


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    test = subprocess.run(
        [
            *isolated(),
            "sh",
            "-c",
            "test -e /etc/resolv.conf && mount --bind /etc/resolv.conf /etc/resolv.conf",
        ]
    )
    if test.returncode:
        pytest.skip("a network of one's own is not allowed here")
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


def test_the_whole_way_leaves_the_home_empty_and_looks_up_no_name(
    folder: Path, photos: Path, tmp_path: Path
) -> None:
    home, data = tmp_path / "home", ["--data", str(photos), "--device", "cpu", "--json"]
    recipe = ["digits", *SETTINGS, *SMALL]
    after = [child_command(*line.format(data=" ".join(data)).split()) for line in AFTER]
    report = ["sh", "-c", f"exec {shlex.join(child_command('report'))} runs/digits-* --json"]
    asked, said = in_isolation(
        home, folder, child_command("train", *recipe, *data, "--no-export"), *after, report
    )

    assert asked == []
    assert [str(path) for path in home.rglob("*")] == []
    top1 = [json.loads(one).get("top1") for one in said]
    assert Path(folder, json.loads(said[-1])["report"]).is_file()
    assert top1 == [top1[0], None, top1[0], top1[0], None, None]


def test_the_trap_catches_what_calls_home(folder: Path, tmp_path: Path) -> None:
    """Without its switch, ONNX Runtime writes a device id; and a name that is looked up is noted."""
    code = "import socket, sys\ntry:\n    socket.getaddrinfo('home.example', 80)\nexcept OSError:\n    pass"
    asked, _ = in_isolation(
        tmp_path / "home", folder, [sys.executable, "-c", code], [sys.executable, "-c", "import onnxruntime"]
    )

    assert "home.example" in asked
    assert [*(tmp_path / "home").rglob("deviceid")]
