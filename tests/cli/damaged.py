"""Runs on damaged images: `python -m tests.cli.damaged [RUNS]` does 200 and counts how they end.

Each run has one or two damaged files of 64 in a batch. Processes are forked from this one, which has imported all that
takes long; only those of torchrun start anew.
"""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import random
import re
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

from tests.dataset.encoded import DAMAGE, encoded

TINY = [
    "classes=2",
    "epochs=1",
    "global_batch=64",
    "schedule.warmup_epochs=0",
    "log_every=1",
    "preprocess.train_size=32",
    "preprocess.val_size=32",
    "preprocess.val_resize=36",
    "precision=fp32",
    "model=tests.nets:Small",
]
WHERE = {"train": "train", "validation": "val", "evaluate": "val"}


class Case(NamedTuple):
    """One run."""

    kind: str  # of damage
    files: int  # damaged
    processes: int
    phase: str  # what meets them: the training, its validation, or `trainer evaluate`
    seed: int


def all_cases() -> Iterator[Case]:
    """Every combination, again and again with other files."""
    for seed in itertools.count():
        for phase, kind, count, processes in itertools.product(WHERE, DAMAGE, (1, 2), (1, 2)):
            yield Case(kind, count, processes, phase, seed)


def make_photos(root: Path) -> None:
    """64 training and 64 validation photos of two classes."""
    for part, first in (("train", 0), ("val", 64)):
        for number in range(64):
            folder = root / part / ("cat", "dog")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            (folder / f"{number:02d}.jpg").write_bytes(encoded(seed=first + number))


def damage(root: Path, case: Case) -> list[str]:
    """Damage some files; their names."""
    files = sorted((root / WHERE[case.phase]).rglob("*.jpg"))
    chosen = random.Random(f"{case}").sample(files, case.files)
    for path in chosen:
        before = path.read_bytes()
        path.write_bytes(DAMAGE[case.kind](before))
        assert path.read_bytes() != before
    return [str(path.relative_to(root)) for path in chosen]


def arguments_of(case: Case, data: Path, runs: Path, model: Path) -> list[str]:
    """The command line."""
    common = ["--data", str(data), "--device", "cpu", "--nproc-per-node", str(case.processes)]
    if case.phase == "evaluate":
        # A network of one's own is imported for runs that were trained with it.
        return ["evaluate", *common, "--runs", str(model.parent), str(model)]
    settings = [word for one in (*TINY, f"seed={case.seed}") for word in ("--set", one)]
    share = str(64 // case.processes)
    return [
        "train",
        "digits",
        *settings,
        *common,
        "--runs",
        str(runs),
        "--batch-per-gpu",
        share,
        "--no-report",
        "--no-export",
    ]


def forked(arguments: list[str], said: Path) -> int:
    """Exit code of `trainer ARGUMENTS` in a fork of this process; what it says goes to a file."""
    pid = os.fork()
    if not pid:
        os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
        os.dup2(1, 2)
        from trainer.cli import program

        sys.argv = ["trainer", *arguments]
        code = 1
        try:
            with contextlib.suppress(SystemExit):
                code = program()
        except BaseException:
            traceback.print_exc()
        finally:  # what this process was doing before the fork is not its own to end
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main(runs: int) -> int:
    """Do that many runs and show how they end; 1 if one ends otherwise than promised."""
    import_module("trainer.run._worker")
    from trainer.dataset import folder, prepare

    counts: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as scratch:
        root = Path(scratch)
        make_photos(root / "photos")
        prepare(folder(root / "photos", out=root / "photos"), root / "photos")
        good = Case("none", 0, 1, "train", 0)
        assert forked(arguments_of(good, root / "photos", root / "good", root), root / "said") == 0
        (model,) = (root / "good").glob("digits-*")
        begun = time.monotonic()
        for number, case in enumerate(itertools.islice(all_cases(), runs), 1):
            data = Path(shutil.copytree(root / "photos", root / "data"))
            names = damage(data, case)
            code = forked(arguments_of(case, data, root / "runs", model), root / "said")
            said = (root / "said").read_text(errors="replace")
            named = any(re.search(f"trainer: the image .*{re.escape(name)}", said) for name in names)
            outcome = f"exit {code}, {'named' if named else 'NOT NAMED'}"
            counts[outcome] += 1
            print(f"{number:3} {time.monotonic() - begun:5.0f} s {case} {outcome}", flush=True)
            if outcome != "exit 2, named":
                print(said)
            shutil.rmtree(data)
            for run in (root / "runs").glob("digits-*"):  # MLflow's store stays: it takes seconds to make
                shutil.rmtree(run, ignore_errors=True)  # in which the last sync may still write
    print(dict(counts))
    return int(set(counts) != {"exit 2, named"})


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if sys.argv[1:] else 200))
