"""A child process that decodes images one by one, and may die of one."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from trainer.config import Decoder

PROGRAM = Path(__file__).with_name("_decoding.py")
CHUNK = 64  # images asked for at a time: the answers to so many fit into a pipe

Request = list[Any]  # the arguments of `judge` or `reason_against` in `_decoding`


class DecodingChild:
    """`_decoding` in a process of its own, started again when it has died."""

    def __init__(self, work: Decoder | Literal["check"]) -> None:
        """Nothing is started before it is needed.

        Args:
            work: the decoder to decode with, or "check", which is what `trainer check` asks.
        """
        self._work = work
        self._program: _Program | None = None

    def __enter__(self) -> DecodingChild:
        return self

    def __exit__(self, *_: object) -> None:
        if self._program:
            self._program.end()

    def answers(self, requests: Iterable[Request]) -> Iterator[tuple[Request, Any]]:
        """Each request with its answer; a sentence with the signal's name where the process died of it.

        Raises: RuntimeError if the process cannot be started, or ends for another reason: a bug of ours.
        """
        requests = iter(requests)
        while chunk := deque(islice(requests, CHUNK)):
            while chunk:
                self._program = self._program or _Program(self._work)
                self._program.ask(chunk)
                while chunk and (answer := self._program.answer()):
                    yield chunk.popleft(), json.loads(answer)
                if chunk:
                    said, self._program = self._program.cause_of_death(), None
                    yield chunk.popleft(), said


class _Program:
    """The running program."""

    def __init__(self, work: str) -> None:
        package = str(Path(__file__).parents[2])
        before = os.environ.get("PYTHONPATH")
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed at the end)
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(PROGRAM), work],  # -P: nothing is imported from the user's folder
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,  # what libjpeg and Pillow write there names no file
            env={**os.environ, "PYTHONPATH": os.pathsep.join([package, before] if before else [package])},
        )
        if self.answer() != b"ready\n":
            self.cause_of_death()

    def ask(self, requests: Iterable[Request]) -> None:
        assert self._process.stdin
        with suppress(BrokenPipeError):  # the answers end where it died
            self._process.stdin.writelines(json.dumps(request).encode() + b"\n" for request in requests)
            self._process.stdin.flush()

    def answer(self) -> bytes:
        """The next line; nothing if it has died."""
        assert self._process.stdout
        line = self._process.stdout.readline()
        return line if line.endswith(b"\n") else b""

    def cause_of_death(self) -> str:
        code, said = self.end()
        if code >= 0:
            raise RuntimeError(f"the process that decodes images ended with exit code {code}: {said}")
        return f"the decoder dies of it, {signal.Signals(-code).name}"

    def end(self) -> tuple[int, str]:
        """Its exit code, and what it said last."""
        with suppress(BrokenPipeError):
            self._process.communicate()
        code = self._process.wait()
        self._errors.seek(0)
        said = self._errors.read().decode(errors="replace")[-2000:]
        self._errors.close()
        return code, said
