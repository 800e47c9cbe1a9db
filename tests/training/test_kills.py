"""Killed at any moment, on 1, 2 and 4 processes: the end is that of a run that was never broken."""

from __future__ import annotations

import ast
import random
import signal
import time
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import replace
from multiprocessing import connection
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import torch

from tests.conftest import free_port, write_photo
from tests.training.trainee import CHANGING, IMAGES, RECIPE, Death, train_here
from trainer import metrics
from trainer.checkpoint import list_checkpoints
from trainer.config import Recipe
from trainer.dataset import folder as class_folders
from trainer.dataset import prepare
from trainer.tracking import read_journal

pytestmark = pytest.mark.slow

MACHINE = metrics.THROUGHPUT.rpartition("/")[0]  # the section of the metrics that differ from run to run
PHASES = ("start-up", "step", "save", "validation", "epoch end")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One image of each class to train, and one to validate."""
    root = tmp_path_factory.mktemp("one-each")
    for index in range(IMAGES):
        for seed, split in enumerate(("train", "val")):
            write_photo(
                root / split / f"{index:02d}" / "a.JPEG", width=40 + index, height=60, seed=index + 100 * seed
            )
    prepare(class_folders(root, out=root), root)
    return root


class Training:
    """The processes of one attempt."""

    def __init__(
        self,
        processes: Any,
        data: Path,
        folder: Path,
        *,
        size: int,
        attempt: int,
        recipe: Recipe = CHANGING,
        deaths: Mapping[int, Death] = MappingProxyType({}),
    ) -> None:
        port = free_port()
        self.ranks = [
            processes.Process(
                target=train_here,
                args=(rank, size, port, data, folder, attempt, recipe, deaths.get(rank)),
            )
            for rank in range(size)
        ]
        for one in self.ranks:
            one.start()

    def end(self, seconds: float = 300) -> list[int | None]:
        """Wait for the end of all; their exit codes, None for one that had to be killed."""
        limit = time.monotonic() + seconds
        for one in self.ranks:
            one.join(max(0, limit - time.monotonic()))
        codes = [one.exitcode for one in self.ranks]
        for one in self.ranks:
            one.kill()
            one.join()
        return codes

    def end_after_a_death(self) -> list[int | None]:
        """As `end`, after torchrun's way with the others once one is dead: SIGTERM, and some timeout."""
        connection.wait([one.sentinel for one in self.ranks], 300)
        for one in self.ranks:
            one.terminate()
        return self.end(60)


def death_in(phase: str, size: int, which: random.Random) -> dict[int, Death]:
    """Of one process of so many, at a random moment in `phase`."""
    victim = which.randrange(size) if phase != "save" else 0  # the first process saves
    often = which.randrange(1, 6) if phase in ("step", "save") else 1
    return {victim: Death(phase, often, which.uniform(0, 0.01))}


@pytest.fixture(scope="module")
def unbroken(processes: Any, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Makes the folder of a run that nobody disturbed."""

    def of(size: int, recipe: Recipe = CHANGING) -> Path:
        run = tmp_path_factory.mktemp("unbroken")
        assert Training(processes, data, run, size=size, attempt=0, recipe=recipe).end() == [0] * size
        return run

    return of


def last_state(run: Path) -> Any:
    return torch.load(list_checkpoints(run / "checkpoints")[0], weights_only=True)["states"]


def learned(run: Path) -> list[tuple[str, int, float]]:
    """All metrics but those of the machine."""
    points = read_journal(run).points
    return [(p.key, p.step, p.value) for p in points if not p.key.startswith(f"{MACHINE}/")]


def used(run: Path) -> dict[int, list[int]]:
    """The images of each epoch, as the attempt that counts used them: the last that came to a step."""
    by_step: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
    for path in run.glob("used-*"):
        for line in path.read_text().splitlines():
            attempt, step, labels = line.split(" ", 2)
            by_step[int(step)][int(attempt)] += ast.literal_eval(labels)
    epochs: dict[int, list[int]] = defaultdict(list)
    for number, attempts in by_step.items():
        epochs[number * RECIPE.global_batch // IMAGES] += attempts[max(attempts)]
    return epochs


@pytest.mark.parametrize(("size", "kills"), [(1, 30), (2, 10), (4, 10)])
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been(
    processes: Any, data: Path, unbroken: Any, tmp_path: Path, size: int, kills: int
) -> None:
    seed = time.time_ns()
    print(f"seed {seed}")
    which, attempt = random.Random(seed), 0
    phases = [PHASES[number % len(PHASES)] for number in range(kills)]
    which.shuffle(phases)
    for phase in phases:
        attempt += 1
        deaths = death_in(phase, size, which)
        training = Training(processes, data, tmp_path, size=size, attempt=attempt, deaths=deaths)
        codes = training.end_after_a_death()
        assert -signal.SIGKILL in codes, f"the run was not killed in {phase}"
        assert None not in codes, "a process outlived the dead one"
    assert Training(processes, data, tmp_path, size=size, attempt=attempt + 1).end() == [0] * size

    expected = unbroken(size)
    torch.testing.assert_close(last_state(tmp_path), last_state(expected), rtol=0, atol=0)
    assert learned(tmp_path) == learned(expected)
    for epoch, seen in used(tmp_path).items():
        assert sorted(seen) == list(range(IMAGES)), f"epoch {epoch}"
    assert len(used(tmp_path)) == CHANGING.epochs


def test_a_run_goes_on_with_another_number_of_processes(
    processes: Any, data: Path, unbroken: Any, tmp_path: Path
) -> None:
    """Few epochs: the sums are the same but for rounding, which grows from step to step.

    What is mixed depends on the process, so nothing is.
    """
    recipe = replace(RECIPE, epochs=4)
    which = random.Random(1)
    for attempt, size in enumerate((2, 1)):
        deaths = death_in("epoch end", size, which)
        training = Training(
            processes, data, tmp_path, size=size, attempt=attempt, recipe=recipe, deaths=deaths
        )
        assert -signal.SIGKILL in training.end_after_a_death()
    assert Training(processes, data, tmp_path, size=4, attempt=2, recipe=recipe).end() == [0] * 4

    resumed, expected = last_state(tmp_path), last_state(unbroken(1, recipe))
    assert resumed["progress"]["step"] == expected["progress"]["step"]
    for name, value in resumed["model"].items():
        if name.endswith(("weight", "bias")):  # BatchNorm's statistics are the first process's own
            torch.testing.assert_close(value, expected["model"][name], rtol=1e-3, atol=1e-4)
    for images in used(tmp_path).values():
        assert sorted(images) == list(range(IMAGES))
