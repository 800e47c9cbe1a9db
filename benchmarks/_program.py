"""The frame of each program: one sentence and an exit code for what the user can mend."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from trainer.errors import TrainerError


def make_parser(name: str, description: str) -> argparse.ArgumentParser:
    """The parser of `python -m benchmarks.NAME`."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}", description=description, allow_abbrev=False
    )


def exit_code(work: Callable[[], int], name: str) -> int:
    """The exit code of `work`; that of a `TrainerError` after its sentence."""
    try:
        return work()
    except TrainerError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return error.exit_code
