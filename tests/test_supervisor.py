"""A command in a process of its own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.conftest import is_alive

ROOT = Path(__file__).parents[1]
PROGRAM = """
import os, signal, sys, time
from trainer.supervisor import supervise

def command():
    what = sys.argv[1]
    if what.isdigit():
        return int(what)
    if what.startswith("SIG"):
        os.kill(os.getpid(), getattr(signal, what))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(75))
    print(os.getpid(), flush=True)
    for _ in range(600):
        time.sleep(0.1)  # not in one: a signal that comes just before a sleep does not end it
    return 0

sys.exit(supervise(command, lambda: 2 if sys.argv[2:] else None))
"""


def started(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (["0"], 0),
        (["75"], 75),
        (["SIGSEGV", "named"], 2),
        (["SIGABRT", "named"], 2),
        (["SIGSEGV"], -signal.SIGSEGV),
        (["SIGKILL", "named"], -signal.SIGKILL),  # as Linux does where memory is short
        (["SIGTERM", "named"], -signal.SIGTERM),
    ],
)
def test_it_ends_as_its_command_but_where_there_is_more_to_say(arguments: list[str], code: int) -> None:
    with started(*arguments) as process:
        assert process.wait(30) == code


def test_a_signal_is_handed_on() -> None:
    with started("sleep") as process:
        assert process.stdout
        child = int(process.stdout.readline())
        process.send_signal(signal.SIGTERM)

        assert process.wait(30) == 75
        assert not is_alive(child)


def test_the_command_does_not_outlive_who_started_it() -> None:
    with started("sleep") as process:
        assert process.stdout
        child = int(process.stdout.readline())
        process.kill()
        process.wait(30)

        end = time.monotonic() + 60
        while is_alive(child):
            assert time.monotonic() < end
            time.sleep(0.02)
